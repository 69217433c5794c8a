"""Classification: what a user agent, a referrer, a tag, a language, a width and a pattern are taken for.

The tables are the specification. Sources: Google Analytics 4's default channel group (support.google.com/analytics/answer/9756891)
for channels; the makers' own documentation for the user agents of their browsers and crawlers.

Contents: sources · channels · referrers · tags and click ids · spam · browsers · devices · bots · languages and screens · patterns
"""
import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT
from mininumbers import InvalidInput, UserAgents, device_of, is_spam, language_of, origin_of, pattern, screen_of

BOT_LINES = [line for line in (ROOT / "bots.txt").read_text("utf-8").splitlines() if line and not line.startswith("#")]


def own(host):
    return host == "example.com" or host.endswith(".example.com")


def arrive(query="", referrer="", **more):
    return origin_of(query, referrer, own, **more)


@pytest.fixture(scope="module")
def agents():
    return UserAgents(BOT_LINES)


# ---- sources ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("referrer, source, channel", [
    ("https://www.google.com/", "Google", "Organic Search"),
    ("https://www.google.co.uk/", "Google", "Organic Search"),
    ("https://www.google.com.br/", "Google", "Organic Search"),
    ("https://google.de/search?q=secret", "Google", "Organic Search"),
    ("android-app://com.google.android.googlequicksearchbox/", "Google", "Organic Search"),
    ("android-app://com.google.android.googlequicksearchbox/https/www.google.com", "Google", "Organic Search"),
    ("https://www.bing.com/", "Bing", "Organic Search"),
    ("https://duckduckgo.com/", "DuckDuckGo", "Organic Search"),
    ("https://html.duckduckgo.com/", "DuckDuckGo", "Organic Search"),
    ("https://search.yahoo.co.jp/", "Yahoo", "Organic Search"),
    ("https://r.search.yahoo.com/", "Yahoo", "Organic Search"),
    ("https://yandex.ru/", "Yandex", "Organic Search"),
    ("https://yandex.com.tr/", "Yandex", "Organic Search"),
    ("https://ya.ru/", "Yandex", "Organic Search"),
    ("https://m.baidu.com/", "Baidu", "Organic Search"),
    ("https://www.ecosia.org/", "Ecosia", "Organic Search"),
    ("https://search.brave.com/", "Brave Search", "Organic Search"),
    ("https://kagi.com/", "Kagi", "Organic Search"),
    ("https://search.seznam.cz/", "Seznam", "Organic Search"),
    ("https://chatgpt.com/", "ChatGPT", "AI Assistants"),
    ("https://chat.openai.com/", "ChatGPT", "AI Assistants"),
    ("https://www.perplexity.ai/", "Perplexity", "AI Assistants"),
    ("https://gemini.google.com/", "Gemini", "AI Assistants"),
    ("https://claude.ai/", "Claude", "AI Assistants"),
    ("https://copilot.microsoft.com/", "Copilot", "AI Assistants"),
    ("https://chat.deepseek.com/", "DeepSeek", "AI Assistants"),
    ("https://www.facebook.com/", "Facebook", "Organic Social"),
    ("https://l.facebook.com/", "Facebook", "Organic Social"),
    ("https://lm.facebook.com/", "Facebook", "Organic Social"),
    ("https://l.instagram.com/", "Instagram", "Organic Social"),
    ("https://out.reddit.com/", "Reddit", "Organic Social"),
    ("https://old.reddit.com/r/selfhosted/", "Reddit", "Organic Social"),
    ("https://t.co/abc", "X", "Organic Social"),
    ("https://x.com/", "X", "Organic Social"),
    ("https://lnkd.in/", "LinkedIn", "Organic Social"),
    ("https://news.ycombinator.com/item?id=1", "Hacker News", "Organic Social"),
    ("https://bsky.app/", "Bluesky", "Organic Social"),
    ("https://www.pinterest.co.uk/", "Pinterest", "Organic Social"),
    ("android-app://org.telegram.messenger/", "Telegram", "Organic Social"),
    ("android-app://com.linkedin.android/", "LinkedIn", "Organic Social"),
    ("https://m.youtube.com/", "YouTube", "Organic Video"),
    ("https://youtu.be/", "YouTube", "Organic Video"),
    ("https://www.amazon.co.uk/", "Amazon", "Organic Shopping"),
    ("https://www.ebay.de/", "eBay", "Organic Shopping"),
    ("https://mail.google.com/mail/u/0/", "Gmail", "Email"),
    ("android-app://com.google.android.gm/", "Gmail", "Email"),
    ("https://outlook.live.com/", "Outlook", "Email"),
    ("https://news.google.com/", "Google News", "Referral"),
    ("https://github.com/", "GitHub", "Referral"),
    ("https://en.m.wikipedia.org/wiki/Analytics", "Wikipedia", "Referral"),
    ("https://blog.friend.test/", "blog.friend.test", "Referral"),
    ("https://www.friend.test/", "friend.test", "Referral"),
    ("android-app://test.unknown.app/", "test.unknown.app", "Referral"),
])
def test_a_referrer_is_known_by_the_name_that_people_use(referrer, source, channel):
    origin = arrive(referrer=referrer)
    assert (origin.source, origin.channel) == (source, channel)


@pytest.mark.parametrize("host", ["evilgoogle.com", "google.com.evil.test", "notx.com", "google.evil.co", "my-google.com", "chatgpt.com.evil.test",
                                  "xn--ggle-0nda.com", "facebook.evil.test", "x.com.evil.test"])
def test_a_look_alike_is_not_taken_for_the_host_it_imitates(host):
    origin = arrive(referrer=f"https://{host}/")
    assert (origin.source, origin.channel) == (host, "Referral")


@pytest.mark.parametrize("referrer", ["https://calendar.google.com/", "https://meet.google.com/", "https://chat.google.com/",
                                      "https://translate.google.com/",
                                      "https://play.google.com/", "https://ads.google.com/", "https://analytics.google.com/"])
def test_a_google_service_that_is_no_search_engine_is_no_organic_search(referrer):
    assert arrive(referrer=referrer).channel == "Referral"


@pytest.mark.parametrize("referrer", ["https://mail.yahoo.com/", "https://mail.yahoo.co.jp/", "https://mail.yandex.ru/", "https://mail.aol.com/",
                                      "https://mail.proton.me/"])
def test_web_mail_of_a_search_company_is_email(referrer):
    assert arrive(referrer=referrer).channel == "Email"


# ---- channels --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("query, channel", [
    ("", "Direct"),
    ("utm_source=google&utm_medium=x&utm_campaign=summer-Cross-Network", "Cross-network"),
    ("utm_source=amazon&utm_medium=cpc", "Paid Shopping"),
    ("utm_source=partner&utm_medium=ppc&utm_campaign=spring-shop", "Paid Shopping"),
    ("utm_source=partner&utm_medium=ppc&utm_campaign=workshop", "Paid Other"),
    ("utm_source=google&utm_medium=cpc", "Paid Search"),
    ("utm_source=Google&utm_medium=CPC", "Paid Search"),
    ("utm_source=bing&utm_medium=paidsearch", "Paid Search"),
    ("utm_source=facebook&utm_medium=cpc", "Paid Social"),
    ("utm_source=linkedin&utm_medium=paid-social", "Paid Social"),
    ("utm_source=facebook&utm_medium=retargeting", "Paid Social"),
    ("utm_source=youtube&utm_medium=cpv", "Paid Video"),
    ("utm_source=youtube&utm_medium=cpm", "Paid Video"),
    ("utm_source=partner&utm_medium=display", "Display"),
    ("utm_source=partner&utm_medium=banner", "Display"),
    ("utm_source=partner&utm_medium=expandable", "Display"),
    ("utm_source=partner&utm_medium=interstitial", "Display"),
    ("utm_source=partner&utm_medium=cpm", "Display"),
    ("utm_source=partner&utm_medium=cpc", "Paid Other"),
    ("utm_source=partner&utm_medium=paid", "Paid Other"),
    ("utm_source=etsy", "Organic Shopping"),
    ("utm_source=partner&utm_medium=flyer&utm_campaign=eshop", "Organic Shopping"),
    ("utm_source=partner&utm_medium=flyer&utm_campaign=winter-shopping", "Organic Shopping"),
    ("utm_source=fb", "Organic Social"),
    ("utm_source=partner&utm_medium=social", "Organic Social"),
    ("utm_source=partner&utm_medium=social-network", "Organic Social"),
    ("utm_source=partner&utm_medium=social+media", "Organic Social"),
    ("utm_source=partner&utm_medium=sm", "Organic Social"),
    ("utm_source=vimeo", "Organic Video"),
    ("utm_source=partner&utm_medium=video-post", "Organic Video"),
    ("utm_source=chatgpt.com", "AI Assistants"),
    ("utm_source=perplexity&utm_medium=referral", "AI Assistants"),
    ("utm_source=google", "Organic Search"),
    ("utm_source=partner&utm_medium=organic", "Organic Search"),
    ("utm_source=newsletter&utm_medium=email", "Email"),
    ("utm_source=newsletter&utm_medium=e-mail", "Email"),
    ("utm_source=newsletter&utm_medium=e_mail", "Email"),
    ("utm_source=newsletter&utm_medium=e+mail", "Email"),
    ("utm_source=email", "Email"),
    ("utm_source=partner&utm_medium=affiliate", "Affiliates"),
    ("utm_source=partner&utm_medium=audio", "Audio"),
    ("utm_source=partner&utm_medium=sms", "SMS"),
    ("utm_source=sms&utm_medium=flyer", "SMS"),
    ("utm_source=partner&utm_medium=web-push", "Mobile Push Notifications"),
    ("utm_source=partner&utm_medium=mobile-banner", "Mobile Push Notifications"),
    ("utm_source=partner&utm_medium=notification", "Mobile Push Notifications"),
    ("utm_source=firebase", "Mobile Push Notifications"),
    ("utm_source=partner&utm_medium=referral", "Referral"),
    ("utm_source=partner&utm_medium=app", "Referral"),
    ("utm_source=partner&utm_medium=link", "Referral"),
    ("ref=partner", "Referral"),
    ("utm_source=partner", "Unassigned"),
    ("utm_source=partner&utm_medium=carrier-pigeon", "Unassigned"),
    ("utm_campaign=spring", "Unassigned"),
])
def test_channels_follow_the_default_channel_group_and_know_ai_assistants(query, channel):
    assert arrive(query).channel == channel


@pytest.mark.parametrize("referrer, query, channel", [
    ("https://www.google.com/", "utm_medium=cpc", "Paid Search"),
    ("https://www.google.com/", "gclid=1", "Paid Search"),
    ("https://m.youtube.com/", "utm_medium=cpc", "Paid Video"),
    ("https://chatgpt.com/", "utm_medium=cpc", "Paid Other"),
    ("https://friend.test/", "utm_medium=email", "Email"),
    ("https://friend.test/", "utm_campaign=spring", "Referral"),
])
def test_a_referrer_names_the_source_where_no_tag_does(referrer, query, channel):
    assert arrive(query, referrer).channel == channel


# ---- referrers -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("referrer, kept", [
    ("https://friend.test", "friend.test"),
    ("https://friend.test/", "friend.test"),
    ("HTTPS://WWW.Friend.TEST/Path/", "friend.test/Path/"),
    ("https://friend.test:8443/a", "friend.test/a"),
    ("https://friend.test/a?token=secret#part", "friend.test/a"),
    ("https://user:password@friend.test/a", "friend.test/a"),
    ("https://friend.test/caf%C3%A9", "friend.test/café"),
    ("https://münchen.test/", "xn--mnchen-3ya.test"),
    ("https://friend.test/a%00b%0Ac", "friend.test/a\ufffdb\ufffdc"),
    ("https://friend.test/" + "a" * 4000, "friend.test/" + "a" * 499),
    ("https://192.0.2.7/a", "192.0.2.7/a"),
    ("android-app://org.telegram.messenger/x", "org.telegram.messenger"),
])
def test_of_a_referrer_its_host_and_path_are_kept_and_never_its_query(referrer, kept):
    assert arrive(referrer=referrer).referrer == kept


@pytest.mark.parametrize("referrer", ["", "about:client", "not a url", "//friend.test/a", "ftp://friend.test/", "javascript:alert(1)", "https://",
                                      "https://[::1",
                                      "data:text/html,x", "https://" + "a" * 300 + ".test/", "file:///home/me/secret.html", "https://exa mple.test/"])
def test_what_is_no_referrer_is_none(referrer):
    assert (arrive(referrer=referrer).channel, arrive(referrer=referrer).referrer) == ("Direct", "")


@pytest.mark.parametrize("host", ["example.com", "www.example.com", "EXAMPLE.com", "blog.example.com", "example.com:8080"])
def test_the_site_itself_is_no_source(host):
    origin = arrive(referrer=f"https://{host}/from")
    assert (origin.channel, origin.source, origin.referrer) == ("Direct", "", "")


def test_a_referrer_can_be_cut_to_its_host():
    assert arrive(referrer="https://friend.test/secret/path?q=1", host_only=True).referrer == "friend.test"


# ---- tags and click ids ----------------------------------------------------------------------------------------------

def test_utm_tags_are_kept_as_they_were_given():
    origin = arrive("utm_source=News%20Letter&UTM_Medium=Email&utm_campaign=caf%C3%A9+%26+bar&utm_content=a&utm_term=b%00c&secret=1")
    assert (origin.utm_source, origin.utm_medium, origin.utm_campaign, origin.utm_content, origin.utm_term) == (
        "News Letter", "Email", "café & bar", "a", "b\ufffdc")


def test_of_a_tag_that_stands_twice_the_first_counts():
    assert arrive("utm_source=one&utm_source=two").utm_source == "one"


def test_a_long_tag_is_cut():
    assert arrive("utm_campaign=" + "x" * 5000).utm_campaign == "x" * 300


@pytest.mark.parametrize("query, source", [
    ("utm_source=a&source=b&ref=c", "a"), ("source=b&ref=c", "b"), ("ref=c", "c"), ("ref=producthunt", "Product Hunt"),
    ("utm_source=google.com", "Google"), ("utm_source=IG", "Instagram"), ("utm_source=&ref=c", "c"), ("reference=c", "friend.test"),
])
def test_the_source_is_the_first_of_utm_source_source_ref_and_the_referrer(query, source):
    assert arrive(query, "https://friend.test/").source == source


@pytest.mark.parametrize("name, source, channel", [
    ("gclid", "Google", "Paid Search"), ("gbraid", "Google", "Paid Search"), ("wbraid", "Google", "Paid Search"), ("msclkid", "Bing", "Paid Search"),
    ("ttclid", "TikTok", "Paid Social"), ("twclid", "X", "Paid Social"), ("fbclid", "Facebook", "Organic Social"),
    ("FBCLID", "Facebook", "Organic Social"),
])
def test_a_click_id_is_noted_by_its_name_and_its_value_thrown_away(name, source, channel):
    origin = arrive(f"{name}=SECRET-VALUE")
    assert (origin.source, origin.channel, origin.click_id) == (source, channel, name.lower())
    assert "SECRET" not in repr(origin)


# ---- spam ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("referrer, spam", [
    ("https://semalt.com/", True), ("https://semalt.semalt.com/crawler.php?u=x", True), ("http://www.SEMALT.com/", True),
    ("https://notsemalt.com/", False), ("https://semalt.com.friend.test/", False), ("https://friend.test/semalt.com", False), ("semalt.com", False),
    ("", False),
])
def test_spam_is_told_by_the_host_and_those_above_it(referrer, spam):
    assert is_spam(referrer) is spam


# ---- browsers --------------------------------------------------------------------------------------------------------

WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36"
ANDROID = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Mobile Safari/537.36"
WEBVIEW = ("Mozilla/5.0 (Linux; Android 14; SM-A546B Build/UP1A.231005.007; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 "
           "Chrome/130.0.6723.102 Mobile Safari/537.36")
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko)"
MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)"

PEOPLE = [
    (WINDOWS, "Chrome", "130", "Windows", "10", "Desktop"),
    (WINDOWS + " Edg/130.0.0.0", "Edge", "130", "Windows", "10", "Desktop"),
    (WINDOWS + " OPR/115.0.0.0", "Opera", "115", "Windows", "10", "Desktop"),
    (WINDOWS + " Vivaldi/7.0.3495.11", "Vivaldi", "7", "Windows", "10", "Desktop"),
    ("Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:132.0) Gecko/20100101 Firefox/132.0", "Firefox", "132", "Windows", "10", "Desktop"),
    ("Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; rv:11.0) like Gecko", "IE", "11", "Windows", "10", "Desktop"),
    (MAC + " Version/18.1 Safari/605.1.15", "Safari", "18", "macOS", "10.15", "Desktop"),
    ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:132.0) Gecko/20100101 Firefox/132.0", "Firefox", "132", "macOS", "10.15", "Desktop"),
    ("Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0", "Firefox", "132", "Linux", "", "Desktop"),
    ("Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0", "Firefox", "132", "Ubuntu", "", "Desktop"),
    (IPHONE + " Version/18.1 Mobile/15E148 Safari/604.1", "Safari", "18", "iOS", "18.1", "Mobile"),
    (IPHONE + " CriOS/130.0.6723.90 Mobile/15E148 Safari/604.1", "Chrome", "130", "iOS", "18.1", "Mobile"),
    (IPHONE + " FxiOS/132.0 Mobile/15E148 Safari/605.1.15", "Firefox", "132", "iOS", "18.1", "Mobile"),
    (IPHONE + " EdgiOS/130.0.2849.68 Version/18.0 Mobile/15E148 Safari/604.1", "Edge", "130", "iOS", "18.1", "Mobile"),
    (IPHONE + " Version/18.1 Mobile/15E148 DuckDuckGo/7 Safari/605.1.15", "DuckDuckGo", "7", "iOS", "18.1", "Mobile"),
    (IPHONE + " Mobile/15E148", "Safari", "", "iOS", "18.1", "Mobile"),
    (IPHONE.replace("iPhone; CPU iPhone", "iPad; CPU") + " Version/18.1 Mobile/15E148 Safari/604.1", "Safari", "18", "iOS", "18.1", "Tablet"),
    (ANDROID, "Chrome", "130", "Android", "10", "Mobile"),
    (ANDROID.replace(" Mobile", ""), "Chrome", "130", "Android", "10", "Tablet"),
    (ANDROID + " EdgA/130.0.0.0", "Edge", "130", "Android", "10", "Mobile"),
    (ANDROID.replace("Chrome/", "SamsungBrowser/26.0 Chrome/"), "Samsung Internet", "26", "Android", "10", "Mobile"),
    ("Mozilla/5.0 (Android 14; Mobile; rv:132.0) Gecko/132.0 Firefox/132.0", "Firefox", "132", "Android", "14", "Mobile"),
    ("Mozilla/5.0 (Android 14; Tablet; rv:132.0) Gecko/132.0 Firefox/132.0", "Firefox", "132", "Android", "14", "Tablet"),
    (WEBVIEW, "Chrome", "130", "Android", "14", "Mobile"),
    (WEBVIEW + " [FB_IAB/FB4A;FBAV/488.0.0.78.79;]", "Facebook", "488", "Android", "14", "Mobile"),
]


@pytest.mark.parametrize("text, browser, browser_version, os, os_version, device", PEOPLE)
def test_a_user_agent_shows_browser_system_and_device(agents, text, browser, browser_version, os, os_version, device):
    client = agents.read(text)
    assert (client.browser, client.browser_version, client.os, client.os_version, client.device) == (browser, browser_version, os, os_version, device)


def test_nothing_else_is_read_from_a_user_agent(agents):
    client = agents.read(WINDOWS)
    assert (client.country, client.region, client.city, client.language, client.screen) == ("", "", "", "", "")


def test_a_chromebook_runs_chromeos(agents):
    assert agents.read("Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36").os == "ChromeOS"


# ---- devices ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, device", [
    (WEBVIEW + " Instagram 355.1.0.44.103 Android (34/14; 450dpi; 1080x2340; samsung; SM-A546B; a54x; s5e8835; de_DE; 658190622)", "Mobile"),
    (WEBVIEW + " com.linkedin.android/4.1.1000", "Mobile"),
    (ANDROID + " (Ecosia android@130.0.6723.102)", "Mobile"),
    ("Opera/9.80 (Android; Opera Mini/36.2.2254/119.132; U; id) Presto/2.12.423 Version/12.16", "Mobile"),
    ("Mozilla/5.0 (Mobile; rv:48.0) Gecko/48.0 Firefox/48.0 KAIOS/2.5", "Mobile"),
    ("Mozilla/5.0 (Linux; Android 13; Pixel Tablet) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36", "Tablet"),
    ("Mozilla/5.0 (Linux; Android 9; KFTRWI) AppleWebKit/537.36 (KHTML, like Gecko) Silk/128.5.7 like Chrome/128.0.6613.187 Safari/537.36", "Tablet"),
    ("Mozilla/5.0 (compatible; MSIE 9.0; Windows NT 6.1; WOW64; Trident/5.0; SLCC2; Media Center PC 6.0; Tablet PC 2.0)", "Desktop"),
    ("Mozilla/5.0 (SMART-TV; LINUX; Tizen 6.0) AppleWebKit/537.36 (KHTML, like Gecko) 76.0.3809.146/6.0 TV Safari/537.36", "TV"),
    ("Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/94.0.4606.128 Safari/537.36 WebAppManager", "TV"),
    ("Mozilla/5.0 (Linux; Android 9; AFTKA Build/PS7655) AppleWebKit/537.36 (KHTML, like Gecko) Silk/110.5.1 like Chrome/110.0.5481.154 Safari/537.36", "TV"),
    ("Mozilla/5.0 (Linux; Android 12; BRAVIA 4K VH2) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/114.0.0.0 Safari/537.36", "TV"),
])
def test_phones_tablets_and_televisions_are_told_apart(text, device):
    assert device_of(text) == device


# ---- bots ------------------------------------------------------------------------------------------------------------

CRAWLERS = """
Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)
Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.6723.69 Mobile Safari/537.36 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)
Mozilla/5.0 (compatible; Google-InspectionTool/1.0;)
Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm) Chrome/116.0.1938.76 Safari/537.36
Mozilla/5.0 (compatible; YandexBot/3.0; +http://yandex.com/bots)
Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)
Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_5) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/13.1.1 Safari/605.1.15 (Applebot/0.1; +http://www.apple.com/go/applebot)
DuckDuckBot/1.1; (+http://duckduckgo.com/duckduckbot.html)
Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)
Mozilla/5.0 (compatible; SemrushBot/7~bl; +http://www.semrush.com/bot.html)
Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)
Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; ChatGPT-User/1.0; +https://openai.com/bot)
Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; ClaudeBot/1.0; +claudebot@anthropic.com)
Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; PerplexityBot/1.0; +https://perplexity.ai/perplexitybot)
Mozilla/5.0 (compatible; Bytespider; spider-feedback@bytedance.com) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/70.0.0.0 Safari/537.36
CCBot/2.0 (https://commoncrawl.org/faq/)
facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)
Twitterbot/1.0
Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)
WhatsApp/2.23.20.0
Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/130.0.0.0 Safari/537.36
Mozilla/5.0 (Linux; Android 11; moto g power (2022)) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/119.0.0.0 Mobile Safari/537.36 Chrome-Lighthouse
Mozilla/5.0 (compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)
python-requests/2.32.3
Python-urllib/3.11
python-httpx/0.27.2
curl/8.10.1
Wget/1.24.5
Go-http-client/2.0
okhttp/4.12.0
Java/17.0.2
axios/1.7.7
node
Scrapy/2.11.2 (+https://scrapy.org)
libwww-perl/6.77
PostmanRuntime/7.42.0
Mozilla/5.0
Mozilla/5.0 (compatible)
-
""".strip().splitlines()


@pytest.mark.parametrize("text", ["", *CRAWLERS])
def test_a_program_is_a_bot_and_so_is_who_gives_no_user_agent(agents, text):
    assert agents.read(text) is None


@pytest.mark.parametrize("text", [
    *(person[0] for person in PEOPLE),
    IPHONE + " GSA/342.0.693598186 Mobile/15E148 Safari/604.1",
    IPHONE + " Mobile/15E148 Snapchat/13.10.0.39 (like Safari/8618.3.11.10.5, panda)",
    IPHONE + " Mobile/15E148 [LinkedInApp]/9.30.1000",
    IPHONE + " Mobile/15E148 Instagram 353.0.3.22.90 (iPhone14,5; iOS 17_6_1; en_US; en; scale=3.00; 1170x2532; 651137285)",
    IPHONE + " Mobile/21G80 MicroMessenger/8.0.50(0x1800323c) NetType/WIFI Language/zh_CN",
    WEBVIEW + " GSA/15.43.36.28.arm64",
    WEBVIEW + ";KAKAOTALK 2410430",
    ANDROID.replace("K)", "CUBOT KINGKONG 9)"),
    "Mozilla/5.0 (Linux; Android 13; Pixel 8 Pro) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (PlayStation; PlayStation 5/9.00) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Safari/605.1.15",
])
def test_a_person_is_no_bot(agents, text):
    assert agents.read(text) is not None


@pytest.mark.parametrize("line", BOT_LINES)
def test_every_line_of_the_list_compiles_and_lets_an_ordinary_browser_pass(line):
    assert UserAgents([line]).read(WINDOWS) is not None


def test_the_list_is_whole():
    assert len(BOT_LINES) == len(set(BOT_LINES)) == 206
    assert {"headless", "crawl", "spider", r"(?<! cu)bots?(?:\b|_)", "^python", "xtate/"} <= set(BOT_LINES)


def test_the_list_says_together_what_its_lines_say_one_by_one(agents):
    single = [UserAgents([line]) for line in BOT_LINES]
    for text in CRAWLERS + [person[0] for person in PEOPLE]:
        assert (agents.read(text) is None) == any(each.read(text) is None for each in single), text


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=300), st.sampled_from(["", "Crawl", "CRAWL"]), st.text(max_size=300))
def test_no_user_agent_is_too_odd_to_be_read(before, word, after):
    client = UserAgents(["crawl"]).read(before + word + after)
    if word or not before + after:
        assert client is None
    assert client is None or all(isinstance(value, str) for value in dataclasses.astuple(client))


# ---- languages and screens -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("header, language", [
    ("en-GB,en;q=0.9", "en"), ("de", "de"), ("zh-Hant-TW,zh;q=0.8", "zh"), ("fil-PH", "fil"), ("PT-br", "pt"), (" fr", "fr"), ("en_US", "en"),
    ("es;q=0.5", "es"),
    ("", ""), ("*", ""), ("english", ""), ("x", ""), ("1234", ""), ("é", ""), (";q=1", ""), ("q" * 10_000, ""),
])
def test_a_language_is_the_primary_subtag_of_the_first_choice(header, language):
    assert language_of(header) == language


@pytest.mark.parametrize("width, screen", [(None, ""), (0, ""), (1, "Mobile"), (390, "Mobile"), (575, "Mobile"), (576, "Tablet"), (991, "Tablet"),
                                           (992, "Laptop"),
                                           (1439, "Laptop"), (1440, "Desktop"), (1_000_000, "Desktop")])
def test_widths_fall_into_four_classes(width, screen):
    assert screen_of(width) == screen


# ---- patterns --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("expression", ["", "^/blog/", "/$", "^/(de|en)/[^/]+$", "a.c", r"^/\d{4}/\d{2}$", "(?i)BLOG", "^[a-z]{0,20}$", "^a{1,99}$",
                                        "^a{1,300}$", "^a{0,100}$",
                                        r"^\S{2,150}$", "[.]", "a|b", "^$", r"\bblog\b", "(?:/a)+/?$"])
@pytest.mark.parametrize("text", ["", "/", "/blog/", "/BLOG", "/de/x", "/de/x/y", "/2026/03", "/2026/031", "abc", "a" * 100, "a" * 300, "a" * 301,
                                  "/a/a/", "a.c\n"])
def test_a_pattern_matches_what_the_standard_engine_matches(expression, text):
    assert pattern(expression)(text) == bool(re.search(expression.removesuffix("$") + r"\Z" if expression.endswith("$") else expression, text))


@pytest.mark.parametrize("expression", ["(", "[", "*", "a{2,1}", "\\", "a(?=b)", "(?<!a)b", r"(a)\1", "(?P<x", "(a{1000}){1000}", "\ud800",
                                        "(" * 1000 + ")" * 1000])
def test_what_is_no_pattern_is_refused(expression):
    with pytest.raises(InvalidInput):
        pattern(expression)


@pytest.mark.parametrize("expression", ["(a+)+$", "(a|aa)+$", "^(a*)*$", "^(a?){30}a{30}$", "(.*)*b", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_a_hostile_pattern_answers_all_the_same(expression):
    assert pattern(expression)("a" * 5000 + "!") is False


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_pattern_is_either_refused_or_answers(expression, text):
    try:
        answer = pattern(expression)(text)
    except InvalidInput:
        return
    assert answer in (True, False)
