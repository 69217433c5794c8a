"""Mini Numbers: web analytics that a person runs themselves, in one module and one SQLite file.

    python mininumbers.py                 serve on port 8080
    from mininumbers import create_app    a WSGI application to mount anywhere

The sections, ground floor first; each uses only what stands above it:

    errors             one ladder of exceptions
    settings           every setting, declared once
    clock, text and IP helpers
    classification     user agent, bots, referrer, source, channel, UTM: pure
    identity           epochs, salts, visitor hashes, privacy modes
    storage            connections, the writer, migrations
    limits             how often what may be asked
    sites, users, tokens
    ingest             from a request body to a committed visit
    periods and filters  local time, and the one WHERE compiler
    sealed days        totals and columns of days that cannot change any more
    reports            metrics, dimensions, queries
    conversions        goals, segments and funnels, as they are kept
    funnels            who gets how far, how soon, and where else they go
    journeys           what came before and after
    retention          who came back, as far as anybody can know
    demo               made-up visits, to look at and to measure by
    background jobs    rotation, retention
    HTTP edge          one table of routes, a guard in every row
    create_app
    command line

DESIGN: schema.sql is the manual of the data model.
"""
from __future__ import annotations

import argparse
import base64
import bisect
import contextlib
import ctypes
import dataclasses
import functools
import gc
import getpass
import gzip
import hashlib
import heapq
import hmac
import importlib.metadata
import ipaddress
import itertools
import json
import logging
import math
import operator
import os
import queue
import re
import secrets
import signal
import socket
import sqlite3
import sys
import threading
import time
import types
import unicodedata
import weakref
import zlib
import zoneinfo
from array import array
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import bottle
import geoip2.database
import geoip2.errors
import maxminddb
import ua_parser
import ua_parser_rs
import waitress

__version__ = "0.1.0"
__all__ = ["MiniNumbersError", "Settings", "create_app", "main"]

log = logging.getLogger("mininumbers")


# ---- errors ----------------------------------------------------------------------------------------------------------
# Every error that a person may meet is one of these. The HTTP edge turns it into JSON, the command line into one line.

class MiniNumbersError(Exception):
    """Something a person can mend; its text says what and how.

    `status` and `code` are the HTTP status and the stable name it has in JSON; `details` is a list of
    {"field", "message"} where several things are wrong at once.
    """

    status = 400
    code = "error"

    def __init__(self, message: str, details: Sequence[dict] = ()):
        super().__init__(message)
        self.details = list(details)


class InvalidInput(MiniNumbersError):
    """A value that was sent is not of the form asked for."""

    code = "invalid-input"

    @classmethod
    def of(cls, name: str, message: str) -> InvalidInput:
        """Return the error of one field, told both to people and, in `details`, to programs."""
        return cls(f"{name}: {message}", [{"field": name, "message": message}])

    @classmethod
    def of_all(cls, mistakes: Sequence[dict]) -> InvalidInput:
        """Return the error of several fields at once, each a {"field", "message"}."""
        return cls("; ".join(f"{each['field']} {each['message']}" for each in mistakes)[:1000], mistakes)


class Unauthorized(MiniNumbersError):
    """Nobody is signed in, or the credentials are wrong."""

    status, code = 401, "unauthorized"


class Forbidden(MiniNumbersError):
    """Whoever asks is known, and may not."""

    status, code = 403, "forbidden"


class NotFound(MiniNumbersError):
    """There is no such thing, or it is not this person's to see."""

    status, code = 404, "not-found"


class TooLarge(MiniNumbersError):
    """The body is larger than anything this endpoint takes."""

    status, code = 413, "too-large"


class SecondFactorNeeded(Unauthorized):
    """Name and password are right, and a code of the second factor is still needed, or the one given is wrong."""

    code = "two-factor"

    def __init__(self, message: str):
        super().__init__(message, [{"field": "code", "message": message}])


class Conflict(MiniNumbersError):
    """It cannot be done as things stand."""

    status, code = 409, "conflict"


class TooMany(MiniNumbersError):
    """More is asked than is allowed at a time; `retry_after` says in how many seconds it may be asked again."""

    status, code = 429, "too-many"

    def __init__(self, message: str, retry_after: float = 1):
        super().__init__(message)
        self.retry_after = max(1, math.ceil(retry_after))


class Busy(MiniNumbersError):
    """The server cannot do it now; trying again is right."""

    status, code = 503, "busy"
    retry_after = 1


class DatabaseError(MiniNumbersError):
    """The database file cannot be used."""

    status, code = 503, "database"


# ---- settings --------------------------------------------------------------------------------------------------------

MODES = ("standard", "strict", "paranoid")
GPC_CHOICES = ("paranoid", "drop", "ignore")


def _setting(default: Any, help: str, **limits: Any) -> Any:
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Settings:
    """How a server runs.

    Each field is declared here once; the command line's flag, the MININUMBERS_* variable, --help and the table in the README
    all come from it. Raises InvalidInput when a value is out of its range.
    """

    db: str = _setting("mininumbers.db", "the SQLite file that holds everything")
    host: str = _setting("*", "address to listen on; * is all interfaces")
    port: int = _setting(8080, "port to listen on; 0 picks a free one", least=0, most=65535)
    threads: int = _setting(32, "requests served at once; each waits for its commit, so more of them share one", least=1, most=512)
    queue: int = _setting(10_000, "hits that may wait to be written before the answer is 503", least=1, most=1_000_000)
    trusted_proxies: str = _setting("127.0.0.0/8,::1", "addresses or networks whose X-Forwarded-For is believed")
    trusted_proxy_count: int = _setting(1, "how many proxies stand in a row before the server", least=1, most=16)
    geoip: str = _setting("GeoLite2-Country.mmdb", "GeoIP Country or City database; empty stores no geography")
    mode: str = _setting("standard", "privacy mode of a site that has none of its own", choices=MODES)
    rotation_hours: int = _setting(24, "hours after which a visitor becomes unlinkable", least=1, most=8760)
    retention_days: int = _setting(0, "days after which hits are deleted; 0 keeps them", least=0, most=36_500)
    gpc: str = _setting("paranoid", "what a visitor's Sec-GPC or DNT means: count as paranoid, drop, or ignore", choices=GPC_CHOICES)
    new_values_per_day: int = _setting(20_000, "new paths, sources and the like a site may bring a day; more become (other)", least=1,
                                       most=100_000_000)
    hits_per_address: int = _setting(1_000, "hits a minute from one address; more are answered 429; 0 is no limit", least=0, most=100_000_000)
    hits_per_site: int = _setting(10_000, "hits a minute for one site; more are answered 429; 0 is no limit", least=0, most=100_000_000)
    requests_per_token: int = _setting(600, "requests a minute with one API token; more are answered 429; 0 is no limit", least=0,
                                       most=100_000_000)
    # The names that were given a value, by flag, variable or the embedding program: these cannot be changed in the browser.
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            _check_setting(setting, getattr(self, name))
        self.trusted_networks  # raises now, not at the first request
        changed = {name for name, setting in SETTINGS.items() if getattr(self, name) != setting.default}
        object.__setattr__(self, "given", self.given | changed)

    @functools.cached_property
    def trusted_networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """The networks of trusted_proxies."""
        try:
            return tuple(ipaddress.ip_network(part.strip()) for part in self.trusted_proxies.split(",") if part.strip())
        except ValueError as error:
            raise InvalidInput.of("trusted_proxies", f"is not a list of addresses or networks ({error})") from error

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, **given: Any) -> Settings:
        """Return the settings of MININUMBERS_* variables, each overridden by `given` unless that is None."""
        values = {name: parse_setting(name, environ[variable]) for name in SETTINGS if (variable := f"MININUMBERS_{name.upper()}") in environ}
        values |= {name: value for name, value in given.items() if value is not None}
        return cls(**values, given=frozenset(values))


SETTINGS = {each.name: each for each in dataclasses.fields(Settings) if "help" in each.metadata}
SITE_OVERRIDES = ("mode", "rotation_hours", "retention_days", "gpc")  # a site may have its own
# What can be changed in the browser, and holds from then on without a restart.
CHANGEABLE = (*SITE_OVERRIDES, "new_values_per_day", "hits_per_address", "hits_per_site", "requests_per_token")


def _check_setting(setting: dataclasses.Field, value: Any) -> None:
    kind, limits = type(setting.default), setting.metadata
    if type(value) is not kind:
        raise InvalidInput.of(setting.name, f"must be {'a whole number' if kind is int else 'text'}, not {value!r}")
    if "choices" in limits and value not in limits["choices"]:
        raise InvalidInput.of(setting.name, f"must be one of {', '.join(limits['choices'])}, not {value!r}")
    if "least" in limits and not limits["least"] <= value <= limits["most"]:
        raise InvalidInput.of(setting.name, f"must be from {limits['least']} to {limits['most']}, not {value}")


def parse_setting(name: str, text: str) -> Any:
    """Return the value that `text` stands for. Raises InvalidInput when it is not of the setting's type."""
    if not isinstance(SETTINGS[name].default, int):
        return text
    try:
        return int(text)
    except ValueError:
        raise InvalidInput.of(name, f"must be a whole number, not {text!r}") from None


# ---- clock, text and IP helpers --------------------------------------------------------------------------------------

Clock = Callable[[], float]  # seconds since 1970, as time.time

_SUSPECT_ESCAPE = re.compile(r"\\u(?:0000|d[89a-f])", re.IGNORECASE)
_HOSTNAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\.?", re.ASCII)


def asset(name: str) -> Path:
    """Return where a file that belongs to this module lies: beside it, or where its wheel put it.

    Raises MiniNumbersError when it is in neither place.
    """
    beside = Path(__file__).resolve().parent / name
    if beside.exists():
        return beside
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for path in importlib.metadata.files("mininumbers") or ():
            if path.name == name and (located := Path(path.locate())).exists():
                return located
    raise MiniNumbersError(f"{name} is missing: it belongs beside {Path(__file__).name}; install Mini Numbers again")


def load_json(raw: bytes) -> Any:
    """Return what the JSON text `raw` says.

    Stricter than the standard library where leniency would let in what cannot be stored: raises InvalidInput on invalid UTF-8,
    duplicate keys, NaN and Infinity, NUL characters, lone surrogates and absurd depth.
    """
    try:
        text = raw.decode("utf-8")
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_pairs)
    except UnicodeDecodeError as error:
        raise InvalidInput("The body is not UTF-8.") from error
    except RecursionError as error:
        raise InvalidInput("The body is nested too deeply.") from error
    except ValueError as error:
        raise InvalidInput(f"The body is not JSON: {error}") from error
    if _SUSPECT_ESCAPE.search(text):
        try:
            _refuse_unstorable(value, "body")
        except RecursionError as error:
            raise InvalidInput("The body is nested too deeply.") from error
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {ascii(repeated)} stands twice in one object")
    return result


def _refuse_unstorable(value: Any, path: str) -> None:
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidInput.of(ascii(path)[1:-1], "has a NUL character or half of a surrogate pair")
    elif isinstance(value, dict):
        for key, inner in value.items():
            _refuse_unstorable(key, path)
            _refuse_unstorable(inner, key if path == "body" else path)
    elif isinstance(value, list):
        for inner in value:
            _refuse_unstorable(inner, path)


def clean(text: str) -> str:
    """Return `text` without characters that cannot be seen or stored: controls and lone surrogates become U+FFFD."""
    if text.isprintable():
        return text
    return "".join("\ufffd" if unicodedata.category(character) in ("Cc", "Cs") else character for character in text)


def host_of(text: str) -> str:
    """Return a host name in the form it is compared and stored in: lower case, punycode, no "www." and no final dot; "" if it is none."""
    host = text.strip().lower()
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            return ""
    if not _HOSTNAME.fullmatch(host) or len(host) > 253:
        return host if _ip(host) else ""
    bare = host.rstrip(".")
    return bare.removeprefix("www.") if bare.count(".") > 1 else bare


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def address_of(text: str) -> str:
    """Return a client's address in one spelling: an IPv4 address that came mapped into IPv6 is the IPv4 address."""
    parsed = _ip(text) if ":" in text else None  # IPv4 has but one spelling, and most addresses are that
    return str(getattr(parsed, "ipv4_mapped", None) or parsed or text)


def split_url(text: str) -> SplitResult | None:
    """Return the parts of an absolute URL, or None when `text` is not one."""
    try:
        parts = urlsplit(text)
        return parts if parts.scheme and parts.hostname else None
    except ValueError:
        return None


def zone_of(name: str) -> zoneinfo.ZoneInfo:
    """Return the time zone called `name`. Raises InvalidInput when the machine knows none of that name."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput.of("timezone", f"{name!r} is not a known time zone; write an IANA name such as Europe/Berlin "
                              "(a machine without any needs the tzdata package)") from error


def midnight(day: date, zone: zoneinfo.ZoneInfo) -> int:
    """Return the unix second at which `day` begins in `zone`: where its midnight is skipped, the moment of the skip."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())


def local_date(second: float, zone: zoneinfo.ZoneInfo) -> date:
    """Return the date in `zone` at a unix second."""
    return datetime.fromtimestamp(second, zone).date()


# ---- classification --------------------------------------------------------------------------------------------------
# Pure: text in, text out. Names are those that people use, so they need no table in the browser.

USER_AGENT_LIMIT = 512  # ample for real ones, and it bounds what a hostile one can cost

# Category, name, then hosts (a host covers its subdomains, name.* its country domains, .name.* what lies below those) and words
# used as utm_source.
_SOURCES = """
search    | Google          | google.* google.cat google googleads adwords com.google.android.googlequicksearchbox syndicatedsearch.goog
search    | Google          | cse.google.com images.google.com
search    | Bing            | bing.com bing bingads cn.bing.com msn.com
search    | DuckDuckGo      | duckduckgo.com duckduckgo ddg
search    | Yahoo           | yahoo.* .yahoo.* yahoo
search    | Yandex          | yandex.* .yandex.* ya.ru yandex
search    | Baidu           | baidu.com baidu
search    | 360 Search      | so.com
search    | Shenma          | sm.cn
search    | Coc Coc         | coccoc.com
search    | Mail.ru         | go.mail.ru
search    | Dzen            | dzen.ru
search    | T-Online        | suche.t-online.de
search    | Ecosia          | ecosia.org ecosia
search    | Brave Search    | search.brave.com
search    | Kagi            | kagi.com kagi
search    | Qwant           | qwant.com qwant
search    | Startpage       | startpage.com startpage
search    | Naver           | naver.com naver
search    | Seznam          | seznam.cz seznam
search    | Sogou           | sogou.com sogou
search    | AOL             | search.aol.com aol.com aol
search    | Ask             | ask.com ask
search    | Mojeek          | mojeek.com
search    | Swisscows       | swisscows.com
search    | MetaGer         | metager.org metager.de
search    | Marginalia      | marginalia-search.com search.marginalia.nu
search    | Presearch       | presearch.com
search    | SearXNG         | searx.be searx.space
ai        | ChatGPT         | chatgpt.com chat.openai.com openai.com com.openai.chatgpt chatgpt
ai        | Claude          | claude.ai claude
ai        | Gemini          | gemini.google.com bard.google.com notebooklm.google.com aistudio.google.com gemini
ai        | Perplexity      | perplexity.ai perplexity
ai        | Copilot         | copilot.microsoft.com copilot.com edgeservices.bing.com m365.cloud.microsoft copilot
ai        | Qwen            | chat.qwen.ai
ai        | Doubao          | doubao.com
ai        | DeepSeek        | chat.deepseek.com deepseek.com deepseek
ai        | Grok            | grok.com grok
ai        | Le Chat         | chat.mistral.ai mistral.ai mistral
ai        | Meta AI         | meta.ai
ai        | You.com         | you.com
ai        | Phind           | phind.com
ai        | Poe             | poe.com
ai        | Kimi            | kimi.com kimi.moonshot.cn
ai        | Duck.ai         | duck.ai
social    | Facebook        | facebook.com fb.com fb.me facebook fb facebook-ads com.facebook.katana
social    | Instagram       | instagram.com ig.me com.instagram.android instagram ig
social    | Threads         | threads.net threads.com threads
social    | X               | x.com twitter.com t.co twitter x com.twitter.android
social    | LinkedIn        | linkedin.com lnkd.in linkedin com.linkedin.android
social    | Reddit          | reddit.com redd.it out.reddit.com reddit com.reddit.frontpage
social    | Hacker News     | news.ycombinator.com hckrnews.com hn hackernews
social    | Lobsters        | lobste.rs lobsters
social    | Bluesky         | bsky.app bsky.social bluesky
social    | Mastodon        | mastodon.social mastodon.online fosstodon.org hachyderm.io mas.to mstdn.social infosec.exchange mastodon
social    | Pinterest       | pinterest.* .pinterest.* pin.it com.pinterest pinterest
social    | TikTok          | tiktok.com tiktok
social    | Snapchat        | snapchat.com snapchat
social    | Telegram        | t.me telegram.org telegram.me telegram org.telegram.messenger
social    | WhatsApp        | whatsapp.com wa.me com.whatsapp whatsapp
social    | Messenger       | messenger.com l.messenger.com com.facebook.orca
social    | Discord         | discord.com discord.gg discordapp.com com.discord discord
social    | Slack           | slack.com com.slack slack
social    | Tumblr          | tumblr.com t.umblr.com tumblr
social    | Quora           | quora.com quora
social    | VK              | vk.com vkontakte.ru vk
social    | Odnoklassniki   | ok.ru
social    | Weibo           | weibo.com weibo.cn t.cn weibo
social    | WeChat          | weixin.qq.com wechat.com wechat
social    | Medium          | medium.com medium
social    | Product Hunt    | producthunt.com producthunt
social    | Stack Overflow  | stackoverflow.com stackexchange.com
social    | dev.to          | dev.to
social    | XING            | xing.com xing
social    | Nextdoor        | nextdoor.com
social    | LINE            | line.me
social    | Zhihu           | zhihu.com
social    | Xiaohongshu     | xiaohongshu.com
social    | Tieba           | tieba.baidu.com
social    | Naver Blog      | blog.naver.com
social    | Lemmy           | lemmy.world lemmy.ml
video     | YouTube         | youtube.com youtu.be youtube com.google.android.youtube
video     | Vimeo           | vimeo.com vimeo
video     | Twitch          | twitch.tv twitch
video     | Dailymotion     | dailymotion.com
video     | Netflix         | netflix.com
video     | Bilibili        | bilibili.com
shopping  | Amazon          | amazon.* .amazon.* amazon
shopping  | eBay            | ebay.* .ebay.* ebay
shopping  | Etsy            | etsy.com etsy
shopping  | AliExpress      | aliexpress.com aliexpress
shopping  | Alibaba         | alibaba.com
shopping  | Shopify         | shop.app shopify.com shopify
shopping  | Walmart         | walmart.com
email     | Gmail           | mail.google.com com.google.android.gm gmail
email     | Outlook         | outlook.live.com outlook.office.com outlook.office365.com com.microsoft.office.outlook outlook
email     | Yahoo Mail      | mail.yahoo.com
email     | Proton Mail     | mail.proton.me
email     | Mail.ru         | e.mail.ru
email     | Fastmail        | fastmail.com app.fastmail.com
email     | GMX             | gmx.net deref-gmx.net
email     | WEB.DE          | navigator.web.de deref-web.de
email     | Email           | email e-mail e_mail mail
other     | GitHub          | github.com github
other     | GitLab          | gitlab.com
other     | Wikipedia       | wikipedia.org wikipedia
other     | Google News     | news.google.com
other     | Google services | .google.*
other     | Amazon Web Services | aws.amazon.com
other     | Yahoo Finance   | finance.yahoo.com
other     | Flipboard       | flipboard.com
other     | Substack        | substack.com substack
other     | Feedly          | feedly.com
other     | Microsoft Teams | teams.microsoft.com statics.teams.cdn.office.net
"""

Source = NamedTuple("Source", [("name", str), ("category", str)])


def _read_sources(text: str) -> dict[str, Source]:
    known = {}
    for line in text.strip().splitlines():
        category, name, keys = (part.strip() for part in line.split("|"))
        known.update(dict.fromkeys([name.lower(), *keys.split()], Source(name, category)))
    return known


SOURCES = _read_sources(_SOURCES)
_COUNTRY_DOMAIN = re.compile(r"^(?:[a-z0-9.-]*?(\.))??([a-z]+)\.(?:com?\.)?(?:com|[a-z]{2})$")  # mail.yahoo.co.jp is .yahoo.*

# A click id is noted by its parameter's name, which tells the source; the paid ones are only ever put there by an advertisement.
CLICK_IDS = {"gclid": "Google", "gbraid": "Google", "wbraid": "Google", "dclid": "Google", "msclkid": "Bing", "yclid": "Yandex",
             "fbclid": "Facebook", "igshid": "Instagram", "igsh": "Instagram", "twclid": "X", "ttclid": "TikTok", "li_fat_id": "LinkedIn",
             "rdt_cid": "Reddit", "epik": "Pinterest", "sccid": "Snapchat"}
PAID_CLICK_IDS = frozenset({"gclid", "gbraid", "wbraid", "dclid", "msclkid", "yclid", "twclid", "ttclid", "rdt_cid", "li_fat_id"})
UTM_TAGS = ("utm_source", "utm_medium", "utm_campaign", "utm_content", "utm_term")

# Sites that send referrers only to be looked at in reports such as these.
SPAM_REFERRERS = frozenset("""
semalt.com buttons-for-website.com buttons-for-your-website.com best-seo-offer.com best-seo-solution.com darodar.com econom.co
ilovevitaly.com ilovevitaly.ru priceg.com blackhatworth.com hulfingtonpost.com cenoval.ru savetubevideo.com kambasoft.com
trafficmonetize.org webmonetizer.net success-seo.com 100dollars-seo.com free-share-buttons.com free-social-buttons.com
get-free-traffic-now.com event-tracking.com social-buttons.com simple-share-buttons.com sharebutton.net o-o-6-o-o.com 4webmasters.org
rank-checker.online traffic2money.com trafficgenius.xyz free-traffic.xyz seo-platform.com floating-share-buttons.com
video--production.com videos-for-your-business.com erot.co makemoneyonline.com lomb.co offers.bycontext.com iskalko.ru luxup.ru
gobongo.info adcash.com doubleclick-traffic.xyz bot-traffic.icu bottraffic.live trafficbot.life trafficbot.live traffic-bot.net
""".split())


def known_source(text: str) -> Source | None:
    """Return the Source known by a host name, an app's package name or a word used as utm_source; None if it is not known."""
    key = text.lower()
    if key in SOURCES:
        return SOURCES[key]
    if key.startswith(("mail.", "webmail.")):
        return Source(text, "email")
    while "." in key:  # the host, then each domain above it
        if found := SOURCES.get(key) or SOURCES.get(_COUNTRY_DOMAIN.sub(r"\1\2.*", key)):
            return found
        key = key.partition(".")[2]
    return None


@dataclass(frozen=True)
class Origin:
    """Where a visit came from; each field is text, empty where not known. The fields are the columns of `origins`."""

    channel: str = "Direct"
    source: str = ""
    referrer: str = ""
    utm_source: str = ""
    utm_medium: str = ""
    utm_campaign: str = ""
    utm_content: str = ""
    utm_term: str = ""
    click_id: str = ""


def origin_of(query: str, referrer: str, is_own_host: Callable[[str], bool], host_only: bool = False) -> Origin:
    """Return the Origin told by a page's query string and its referrer.

    `is_own_host` says of a host whether it is the site's own, and so no source. `host_only` cuts the referrer to its host.
    """
    tags = {}
    for key, value in parse_qsl(query, max_num_fields=None, errors="replace"):
        tags.setdefault(key.lower(), clean(value.strip())[:300])
    host, path = _referrer(referrer)
    if host and is_own_host(host):
        host = path = ""
    click_id = next((name for name in CLICK_IDS if name in tags), "")
    utm = {name: tags.get(name, "") for name in UTM_TAGS}
    tagged = utm["utm_source"] or tags.get("source", "") or tags.get("ref", "")
    text = tagged or host or CLICK_IDS.get(click_id, "")
    known = known_source(text)
    channel = channel_of(known.category if known else "", text, utm["utm_medium"], utm["utm_campaign"], click_id in PAID_CLICK_IDS,
                         tagged=bool(utm["utm_source"]))
    return Origin(channel, known.name if known else text, host if host_only else host + path, **utm, click_id=click_id)


def _referrer(text: str) -> tuple[str, str]:
    """Return (host, path) of a referrer; of an Android app, (package, "")."""
    parts = split_url(text)
    if parts is None or parts.scheme not in ("http", "https", "android-app"):
        return "", ""
    path = clean(unquote(parts.path, errors="replace"))[:500]
    return host_of(parts.hostname or ""), "" if path == "/" or parts.scheme == "android-app" else path


_PAID_MEDIUM = re.compile(r".*cp.*|ppc|retargeting|paid.*")
_SHOP_CAMPAIGN = re.compile(r".*(?:(?:[^a-df-z]|^)shop|shopping).*")
_SOCIAL_MEDIUM = re.compile(r"social|social[-_ ](?:network|media)|sm")
_EMAIL = re.compile(r"e[-_ ]?mail")


def channel_of(category: str, source: str, medium: str, campaign: str, paid_click: bool = False, tagged: bool = False) -> str:
    """Return the channel of a visit, by the rules of Google Analytics 4's default channel group, in their order, plus AI Assistants.

    `category` is that of the known source; `tagged` says that utm_source named it, as Referral needs a real referrer. Source: https://support.google.com/analytics/answer/9756891
    """
    source, medium, campaign = source.lower(), medium.lower(), campaign.lower()
    paid = paid_click or bool(_PAID_MEDIUM.fullmatch(medium))
    shop = category == "shopping" or bool(_SHOP_CAMPAIGN.fullmatch(campaign))
    rules = (
        ("Direct", not (source or medium or campaign)),
        ("Cross-network", "cross-network" in campaign),
        ("Paid Shopping", shop and paid),
        ("Paid Search", category == "search" and paid),
        ("Paid Social", category == "social" and paid),
        ("Paid Video", category == "video" and paid),
        ("Display", medium in ("display", "banner", "expandable", "interstitial", "cpm")),
        ("Paid Other", paid),
        ("Organic Shopping", shop),
        ("Organic Social", category == "social" or bool(_SOCIAL_MEDIUM.fullmatch(medium))),
        ("Organic Video", category == "video" or "video" in medium),
        ("AI Assistants", category == "ai"),
        ("Organic Search", category == "search" or medium == "organic"),
        ("Email", category == "email" or bool(_EMAIL.fullmatch(source) or _EMAIL.fullmatch(medium))),
        ("Affiliates", medium == "affiliate"),
        ("Audio", medium == "audio"),
        ("SMS", "sms" in (source, medium)),
        ("Mobile Push Notifications", medium.endswith("push") or "mobile" in medium or "notification" in medium or source == "firebase"),
        ("Referral", medium in ("referral", "app", "link") or bool(source) and not (tagged or medium)),
    )
    return next((name for name, holds in rules if holds), "Unassigned")


def is_spam(referrer: str) -> bool:
    """Return whether a referrer's host, or one above it, is known to send fake visits."""
    labels = _referrer(referrer)[0].split(".")
    return any(".".join(labels[start:]) in SPAM_REFERRERS for start in range(len(labels) - 1))


@dataclass(frozen=True)
class Client:
    """What a visit shows of the visitor's side; each field is text, empty where not known or not wanted. The columns of `clients`."""

    country: str = ""
    region: str = ""
    city: str = ""
    browser: str = ""
    browser_version: str = ""
    os: str = ""
    os_version: str = ""
    device: str = ""
    language: str = ""
    screen: str = ""


_BROWSER_NAMES = {"Mobile Safari": "Safari", "Mobile Safari UI/WKWebView": "Safari", "Chrome Mobile": "Chrome", "Chrome Mobile iOS": "Chrome",
                  "Chrome Mobile WebView": "Chrome", "Firefox Mobile": "Firefox", "Firefox iOS": "Firefox", "Edge Mobile": "Edge",
                  "Edge iOS": "Edge", "Opera Mobile": "Opera", "Opera Touch": "Opera", "IE Mobile": "IE", "DuckDuckGo Mobile": "DuckDuckGo",
                  "Brave Mobile": "Brave", "Samsung Internet": "Samsung Internet"}
_OS_NAMES = {"Mac OS X": "macOS", "Chrome OS": "ChromeOS"}
_TABLET = re.compile(r"ipad|tablet(?! pc)|kindle|silk/|playbook|^(?!.*(?:mobi|opera mini)).*android", re.IGNORECASE)
_MOBILE = re.compile(r"mobi|iphone|ipod|android|windows phone|blackberry|opera mini", re.IGNORECASE)
_TV = re.compile(r"smart-?tv|hbbtv|appletv|googletv|crkey|bravia|web0s|\btv\b|; aft[a-z]+", re.IGNORECASE)


class UserAgents:
    """Reads user agents; remembers the newest few thousand in memory only, since a user agent must never reach a disk."""

    def __init__(self, bot_patterns: Iterable[str]):
        self._bot = re.compile("|".join(map(_from_javascript, bot_patterns)), re.IGNORECASE | re.ASCII)
        self.read = functools.lru_cache(maxsize=4096)(self._read)

    def _read(self, text: str) -> Client | None:
        """Return the Client that a user agent shows, or None when it is a bot's; no user agent at all is a bot's too."""
        if not text or self._bot.search(text):
            return None
        parsed = ua_parser.parse(text)
        if parsed.device and parsed.device.family == "Spider":
            return None
        browser, system = parsed.user_agent, parsed.os
        return Client(browser=_BROWSER_NAMES.get(browser.family, browser.family) if browser else "",
                      browser_version=(browser.major or "") if browser else "",
                      os=_OS_NAMES.get(system.family, system.family) if system else "",
                      os_version=".".join(filter(None, (system.major, system.minor))) if system else "",
                      device=device_of(text))


def _from_javascript(expression: str) -> str:
    """Return a JavaScript pattern as Python reads it: a look-behind for each alternative, and no bare hyphen after a class."""
    return re.sub(r"\(\?<!([^()|]+)\|([^()|]+)\)", r"(?<!\1)(?<!\2)", expression).replace(r"\d-", r"\d\-")


def device_of(user_agent: str) -> str:
    """Return Desktop, Mobile, Tablet or TV."""
    for name, pattern in (("TV", _TV), ("Tablet", _TABLET), ("Mobile", _MOBILE)):
        if pattern.search(user_agent):
            return name
    return "Desktop"


def screen_of(width: int | None) -> str:
    """Return the class of a window's width in CSS pixels, by the usual break points; "" when it was not told."""
    if not width:
        return ""
    return ("Mobile", "Tablet", "Laptop", "Desktop")[bisect.bisect((576, 992, 1440), width)]


def language_of(accept_language: str) -> str:
    """Return the primary subtag of the language a browser prefers ("en" of "en-GB,en;q=0.9"), or ""."""
    match = re.match(r"\s*([a-zA-Z]{2,3})(?![a-zA-Z])", accept_language)
    return match[1].lower() if match else ""


class GeoIP:
    """Looks up where an address is, in a GeoIP Country or City database that stays mapped, not loaded.

    Raises MiniNumbersError when the file cannot be used. An empty path knows no places.
    """

    def __init__(self, path: str):
        self._reader = None
        if path:
            self._reader = _open_geoip(path)
            self._city = "City" in self._reader.metadata().database_type

    def locate(self, address: str) -> tuple[str, str, str]:
        """Return (country code, region name, city name), each "" where not known."""
        if self._reader is None or _ip(address) is None:
            return "", "", ""
        try:
            found = self._reader.city(address) if self._city else self._reader.country(address)
        except geoip2.errors.AddressNotFoundError:
            return "", "", ""
        # An anycast address such as 1.1.1.1 has only the country it is registered in.
        country = found.country.iso_code or found.registered_country.iso_code or ""
        if not self._city:
            return country, "", ""
        return country, found.subdivisions.most_specific.name or "", found.city.name or ""

    def close(self) -> None:
        """Unmap the file."""
        if self._reader:
            self._reader.close()


def _open_geoip(path: str) -> geoip2.database.Reader:
    located = Path(path)
    if path == SETTINGS["geoip"].default and not located.exists():
        located = asset(path)
    advice = "give another with --geoip FILE, or --geoip '' to store no countries"
    try:
        reader = geoip2.database.Reader(located)
        if not re.search("Country|City", reader.metadata().database_type):
            raise MiniNumbersError(f"GeoIP file {path} is of another kind ({reader.metadata().database_type}): {advice}")
        return reader
    except FileNotFoundError:
        raise MiniNumbersError(f"GeoIP file {path} does not exist: {advice}") from None
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
        raise MiniNumbersError(f"GeoIP file {path} cannot be read: {advice}") from error


# ---- identity --------------------------------------------------------------------------------------------------------
# A visitor is a keyed hash of address and user agent. The key is random, per site and epoch, and destroyed one visit timeout
# after its epoch ends: from then on no hash can be recomputed, by anybody.

VISIT_TIMEOUT = 1800  # seconds without a sign of life that end a visit, and so how long the salt of an ended epoch is kept


def visitor_hash(salt: bytes, address: str, user_agent: str) -> int:
    """Return who sent a hit, as a signed 64-bit integer that fits SQLite."""
    digest = hashlib.blake2b(f"{address}|{user_agent}".encode("utf-8", "surrogatepass"), key=salt, digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def epoch_at(second: float, rotation_hours: int, zone: zoneinfo.ZoneInfo) -> tuple[int, int]:
    """Return (which epoch it is, the unix second at which it ends).

    Epochs are blocks of `rotation_hours` on the site's wall clock, counted from midnight of 0001-01-01, a Monday: 24 is the local
    day, with 23 or 25 hours where clocks change, 168 the week from Monday, 6 a quarter of a day.
    """
    local = datetime.fromtimestamp(second, zone)
    epoch = ((local.toordinal() - 1) * 24 + local.hour) // rotation_hours
    ends = (datetime.min + timedelta(hours=(epoch + 1) * rotation_hours)).replace(tzinfo=zone)
    # Where clocks go back over the end of an epoch, it is reached twice: it ends at the one that is still to come.
    moments = (int(ends.replace(fold=fold).timestamp()) for fold in (0, 1))
    return epoch, next((moment for moment in moments if moment > second), int(second) + 3600)


class Salts:
    """The keys of visitor hashes. Lives on the writer's thread, where every method is called within a transaction."""

    def __init__(self, random_bytes: Callable[[int], bytes] = secrets.token_bytes):
        self._random_bytes = random_bytes
        # A visit over the end of an epoch keeps its visitor even after the salt it was made with is gone. That link between two
        # epochs is held here, in memory, until the visit ends; a restart forgets it and at worst splits such a visit.
        self.carried: dict[tuple[int, int], int] = {}

    def usable(self, db: sqlite3.Connection, site: Site, second: int) -> list[bytes]:
        """Return the salt of the site's epoch, made at its first hit, then those of ended epochs within the grace, newest first."""
        epoch, ends_at = epoch_at(second, site.rotation_hours, site.zone)
        rows = db.execute("select epoch, ends_at, salt from salts where site_id = ? and ends_at > ? order by ends_at desc",
                          (site.id, second - VISIT_TIMEOUT)).fetchall()
        current = [salt for each, ends, salt in rows if each == epoch and ends > second][:1]
        if not current:
            current = [self._random_bytes(32)]
            db.execute("insert into salts (site_id, epoch, salt, ends_at) values (?, ?, ?, ?)", (site.id, epoch, *current, ends_at))
            cut_long_epoch(db, site.id, second)
            if site.rotation_hours > 24:
                note_long_epoch(db, site.id, second, ends_at)
        return current + [salt for _, ends, salt in rows if ends <= second]

    def candidates(self, salts: Sequence[bytes], site: Site, address: str, user_agent: str) -> list[int]:
        """Return the visitors a hit may belong to: today's first, then those a visit in progress may have begun with."""
        hashes = [visitor_hash(salt, address, user_agent) for salt in salts]
        carried = [self.carried[key] for each in hashes if (key := (site.id, each)) in self.carried]
        return [*hashes, *carried]


def note_long_epoch(db: sqlite3.Connection, site_id: int, starts_at: int, ends_at: int) -> None:
    """Note that a visitor of the site may come on several days between two seconds."""
    db.execute("""
        insert into long_epochs (site_id, starts_at, ends_at) values (?, ?, ?)
        on conflict do update set ends_at = max(ends_at, excluded.ends_at)""", (site_id, starts_at, ends_at))


def cut_long_epoch(db: sqlite3.Connection, site_id: int, second: int) -> None:
    """Note that a long epoch which was to go on is over, as a change of settings began another."""
    db.execute("update long_epochs set ends_at = ? where site_id = ? and starts_at < ? and ends_at > ?", (second, site_id, second, second))


def end_epochs(db: sqlite3.Connection, site_id: int, second: int) -> None:
    """End the site's epochs now, as a change of its zone or rotation must; their salts go after the usual grace."""
    db.execute("update or replace salts set ends_at = ? where site_id = ? and ends_at > ?", (second, site_id, second))
    cut_long_epoch(db, site_id, second)


def end_overlong_epochs(db: sqlite3.Connection, site: Site, second: int) -> None:
    """End epochs that would last longer than the site's own: made while the clock ran ahead, or when rotation was slower."""
    _, ends_at = epoch_at(second, site.rotation_hours, site.zone)
    db.execute("update or replace salts set ends_at = ? where site_id = ? and ends_at > ?", (second, site.id, ends_at))


def destroy_salts(db: sqlite3.Connection, second: int) -> int:
    """Delete the salts whose grace is over and return how many; `secure_delete` overwrites them in the file.

    When a page of the table was split, a copy of a row may have stayed in its unused part, which a deletion elsewhere does not
    reach. So the whole table is emptied, which overwrites every page, and what goes on is written anew.
    """
    kept = db.execute("select site_id, epoch, ends_at, salt from salts where ends_at > ?", (second - VISIT_TIMEOUT,)).fetchall()
    destroyed = db.execute("select count(*) from salts").fetchone()[0] - len(kept)
    if destroyed:
        db.execute("delete from salts")
        db.executemany("insert into salts (site_id, epoch, ends_at, salt) values (?, ?, ?, ?)", kept)
    return destroyed


def reduce_client(client: Client, mode: str) -> Client:
    """Return what of a Client the privacy mode lets be stored: STANDARD all, STRICT no place finer than a country, PARANOID nothing."""
    if mode == "paranoid":
        return Client()
    if mode == "strict":
        return dataclasses.replace(client, region="", city="")
    return client


# ---- storage ---------------------------------------------------------------------------------------------------------
# One writer thread owns the only connection that writes. Callers hand it work and wait for the commit; whatever waits at the
# same time shares one transaction, so the price of a disk sync is shared too.

APPLICATION_ID = 0x4D4E756D  # "MNum", marks our databases
MINIMUM_SQLITE = (3, 37, 0)
BATCH = 1000  # most pieces of work in one transaction; bounds how long the last of them waits
WRITE_TIMEOUT = 15.0  # seconds a caller waits for its commit before the answer is 503
HURRY = 1.0  # seconds for which callers wait when so many others do that soon nobody would be left to answer readers
SETTLED = 2.0  # seconds a file that was put in the place of ours must lie still before it is opened: it may still be being copied

Work = Callable[[sqlite3.Connection, list], Sequence]
_REPLACED = "The database file is being replaced. Try again in a moment."


def read_versions(schema: str) -> list[tuple[int, str]]:
    """Return [(version, SQL)] of a schema file, oldest first."""
    parts = re.split(r"^-- version (\d+)$", schema, flags=re.MULTILINE)
    return [(int(number), sql) for number, sql in zip(parts[1::2], parts[2::2])]


def _statements(sql: str) -> Iterator[str]:
    """Yield the statements of a script one by one: executescript() would commit the transaction around them."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    yield statement  # the last may have no semicolon


MAX_PARTS = 2_500  # of a regular expression: a larger one would hold the interpreter for too long on each text
_PART = re.compile(r"\\[pP](?:\{[^}]*\}|.)|\\[xuU]\{[^}]*\}|\\.|\[\^?\]?|\(\?[a-zA-Z-]+\)|\((?:\?:)?"
                   r"|\{(?P<least>[0-9\s]*)(?:,(?P<most>[0-9\s]*))?\}|.", re.DOTALL)
_NOT_RE2 = re.compile(r"\(\?[a-zA-Z-]*x[a-zA-Z-]*[:)]")  # spaces and comments could hide parts


class _Parts:
    """A regular expression read part by part: how many there are, counted repetitions written out, and how the engine is told it.

    The engine first looks for texts that must occur. There it takes (a|b){64} for 2 to the power of 64 of them, in a number that
    has no room for that, and begins to write them down. So what is repeated is told with an alternative that never matches.
    """

    def __init__(self, text: str):
        self._told: list[str] = []
        self._sizes = [0]  # of the groups that are open
        self._starts: list[int] = []  # where these begin in what is told
        self._size, self._start, self._brackets = 0, -1, 0  # of what a repetition would repeat, if that is anything
        for part in _PART.finditer(text):
            self._add(part)
            self._told.append(part[0])

    def __len__(self) -> int:
        return min(sum(self._sizes), sys.maxsize)

    def __str__(self) -> str:
        return "".join(self._told)

    def _add(self, part: re.Match) -> None:
        text = part[0]
        if text[0] == "[" or self._brackets:
            self._add_to_class(text)
        elif text[0] == "(" and text[-1] != ")":
            self._sizes.append(1)
            self._starts.append(len(self._told))
            self._start = -1
        elif text == ")" and self._starts:
            self._start, self._size = self._starts.pop(), self._sizes.pop()
            self._sizes[-1] += self._size
        elif text == "|" or text[0] == "(":
            self._start = -1
        elif part["least"] is not None:
            self._repeat(max(int("".join((each or "").split()) or 1) for each in (part["least"], part["most"])))
        elif text not in ("*", "+", "?"):
            self._begin(50 if text[:2] in (r"\p", r"\P") else 1)

    def _begin(self, size: int) -> None:
        self._start, self._size = len(self._told), size
        self._sizes[-1] += size

    def _add_to_class(self, text: str) -> None:
        if not self._brackets:
            self._begin(1)
        self._brackets += (text[0] == "[") - (text == "]")
        if text[:2] in (r"\p", r"\P"):
            self._size += 50
            self._sizes[-1] += 50

    def _repeat(self, times: int) -> None:
        if self._start >= 0:
            self._sizes[-1] += self._size * max(0, times - 1)
            self._size *= max(1, times)
            self._told[self._start] = "(?:" + self._told[self._start]
            self._told.append(r"|\z[0-z])")


def pattern(text: str) -> Callable[[str], bool]:
    """Return a function that tells whether a regular expression matches anywhere in a text. Raises InvalidInput on a bad one.

    Python's own engine can be made to run for years by a hostile pattern, holding the interpreter. The Rust engine inside
    ua-parser takes time linear in the text, and speaks the RE2 syntax that other analytics tools document.
    """
    parts = _Parts(text)
    if len(parts) > MAX_PARTS:
        raise InvalidInput(f"{text!r} is too large: at most {MAX_PARTS} parts, with what is repeated written out and \\p counting as 50")
    # It takes {0,100} for *, as is right for user agents, unless the bound is written another way.
    exact = re.sub(r"\{([01]),(?=\d{3})", r"{0\1,", str(parts))
    try:
        if _NOT_RE2.search(text):
            raise ValueError("the x flag")
        engine = ua_parser_rs.UserAgentExtractor([(exact, "matched", None, None, None, None)])
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a regular expression (RE2 syntax, without look-around and back references)") from error
    return lambda subject: engine.extract(subject) is not None


class _Connection(sqlite3.Connection):
    """A connection that a WeakSet can count, and that closes itself when nobody holds it any more."""

    def __init__(self, *given: Any, **named: Any):
        super().__init__(*given, **named)
        self.deadline = math.inf
        self._compiled = functools.lru_cache(maxsize=2048)(pattern)  # all of a question, see check_patterns()
        this = weakref.ref(self)  # a function that held its connection would keep the file open for ever
        self.create_function("regexp", 2, lambda expression, text: this()._matches(expression, text), deterministic=True)
        self.create_function("casefold", 1, str.casefold, deterministic=True)

    def _matches(self, expression: str, text: str) -> bool:
        if time.monotonic() > self.deadline:  # it takes up to a tenth of a second, where SQLite thinks of one step of many
            self.interrupt()
        return self._compiled(expression)(text)

    def rest(self) -> None:
        """Let go of what a report needed: every thread has a connection, and each would keep megabytes."""
        self._compiled.cache_clear()
        self.execute("pragma shrink_memory")

    def __del__(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # it never opened
            self.close()


def connect(path: str, read_only: bool = False) -> sqlite3.Connection:
    """Return a connection in autocommit mode with the settings that every one of ours has. Makes no file where there is none."""
    connection = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False,
                                 cached_statements=16 if read_only else 128, factory=_Connection)  # a report's takes tens of kB
    connection.execute("pragma busy_timeout = 10000")
    connection.execute("pragma foreign_keys = on")
    connection.execute(f"pragma query_only = {int(read_only)}")
    return connection


def _explain(path: str, error: sqlite3.Error) -> DatabaseError:
    """Return the one clear line for what SQLite says when a database is opened."""
    text = str(error)
    if "not a database" in text or "malformed" in text:
        return DatabaseError(f"{path} is damaged or not an SQLite database: restore it from a backup, or give another file with --db")
    if "readonly" in text or "read-only" in text:
        return DatabaseError(f"{path} is read-only: make the file and its folder writable for this user")
    if "unable to open" in text:
        return DatabaseError(f"{path} cannot be opened: does its folder exist, and may this user write there?")
    if "locked" in text or "busy" in text:
        return DatabaseError(f"{path} is locked by another program: stop that one, then try again")
    return DatabaseError(f"{path} cannot be used: {text}")


def open_database(path: str, schema: str, may_create: bool = True) -> sqlite3.Connection:
    """Open the database for writing, made or migrated as needed. Raises DatabaseError with a line that says what to do."""
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        raise DatabaseError(f"SQLite {'.'.join(map(str, MINIMUM_SQLITE))} or later is needed, this Python has {sqlite3.sqlite_version}")
    if os.path.isdir(path):
        raise DatabaseError(f"{path} is a folder: give a file with --db")
    connection = None
    try:
        with contextlib.suppress(FileExistsError):
            if may_create:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # nobody else on the machine need read it
        if os.path.exists(path) and not os.access(path, os.W_OK):
            raise sqlite3.OperationalError("read-only")  # before SQLite makes a log beside it that nobody may write either
        connection = connect(path)
        _prepare(connection, path, read_versions(schema), may_create)
        return connection
    except OSError as error:
        raise DatabaseError(f"{path} cannot be created: {error.strerror}; does its folder exist, and may this user write there?") from error
    except sqlite3.Error as error:
        raise _explain(path, error) from error
    finally:
        if connection and sys.exc_info()[0]:
            connection.close()


def _prepare(connection: sqlite3.Connection, path: str, versions: list[tuple[int, str]], may_create: bool) -> None:
    """Check whose database it is and bring it to the newest version."""
    newest = versions[-1][0]
    tables, = connection.execute("select count(*) from sqlite_master").fetchone()  # first: another process may be making them just now
    application_id, = connection.execute("pragma application_id").fetchone()
    version, = connection.execute("pragma user_version").fetchone()
    if application_id != APPLICATION_ID and tables:
        raise DatabaseError(f"{path} is some other program's database: give another file with --db")
    if not tables and not may_create:
        raise DatabaseError(f"{path} is empty: put the database back")
    if version > newest:
        raise DatabaseError(f"{path} was written by a newer Mini Numbers (schema {version}, this one knows {newest}): install that version")
    if not tables:
        connection.execute("pragma auto_vacuum = incremental")  # purged space can go back to the file system bit by bit
    _use_log(connection)
    connection.execute("pragma synchronous = full")  # a commit is on the disk before its hit is acknowledged
    connection.execute("pragma secure_delete = on")  # a deleted salt is overwritten, not only forgotten
    connection.execute("pragma temp_store = memory")  # what a statement may have to undo is kept, salts too: not in a file
    if version < newest:
        _migrate(connection, versions)
    _write_nothing(connection)  # says now, and not at the first hit, that the file cannot be written


def _probe(connection: sqlite3.Connection, items: list) -> list[None]:
    _write_nothing(connection)
    return [None] * len(items)


def _use_log(connection: sqlite3.Connection, patience: float = 10) -> None:
    """Switch to a write-ahead log. Of processes that do so at once SQLite lets none wait for the others, so each tries again."""
    deadline = time.monotonic() + patience
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _write_nothing(connection: sqlite3.Connection) -> None:
    """Write the schema's version as it is: raises sqlite3.Error where nothing can be written, which `begin` alone does not tell."""
    version, = connection.execute("pragma user_version").fetchone()
    connection.execute(f"pragma user_version = {version:d}")


def _migrate(connection: sqlite3.Connection, versions: list[tuple[int, str]]) -> None:
    connection.execute("begin immediate")
    try:
        version, = connection.execute("pragma user_version").fetchone()  # again: another process may have been faster
        for script in (sql for number, sql in versions if number > version):
            for statement in _statements(script):
                connection.execute(statement)
        connection.execute(f"pragma application_id = {APPLICATION_ID}")
        connection.execute(f"pragma user_version = {versions[-1][0]}")
        connection.execute("commit")
    except BaseException:
        connection.execute("rollback")
        raise


def too_long(seconds: float) -> str:
    """Return what is said of a report that was given up."""
    return f"This report takes longer than {seconds:g} seconds. Ask for a shorter period or fewer dimensions."


@dataclass
class _Job:
    work: Work
    item: Any
    generation: int | None = None
    done: Future = field(default_factory=Future)


@dataclass(frozen=True, eq=False)
class _Alone:
    """Work of a single job that may change anything: what is remembered of the database may no longer hold after it."""

    function: Callable[[sqlite3.Connection], Any]

    def __call__(self, connection: sqlite3.Connection, items: list) -> list:
        return [self.function(connection) for _ in items]


class _Reader:
    """Holds a thread's connection for reading, and closes it when the thread ends."""

    def __init__(self, connection: sqlite3.Connection):
        self.connection, self._thread = connection, threading.get_ident()

    def __del__(self) -> None:
        if threading.get_ident() == self._thread:  # else the writer let go of it, and its thread may be in the midst of a query
            self.connection.close()


class _Mine(threading.local):
    """What a thread remembers of its own: the generation of the file it has read, in the piece of work it is at."""

    generation: int | None = None


class Store:
    """The database: readers per thread, and one writer thread, started at the first write.

    The file may be replaced while it is in use, as by who restores a backup. What is written then goes nowhere, so it is refused,
    and once another database of ours lies at the path, it is opened: a new generation. What somebody has read in one generation
    (the id of a site, say) means nothing in the next, so they can write only in the one they read.
    """

    def __init__(self, path: str, schema: str, queue_size: int = 10_000, patient: int = 24):
        self.path = path = os.path.abspath(path)  # whoever embeds us may change the folder
        self.schema_version = read_versions(schema)[-1][0]
        self._schema = schema
        self._mine = _Mine()
        self._all_readers: weakref.WeakSet[sqlite3.Connection] = weakref.WeakSet()
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._queue_size = queue_size
        self._thread: threading.Thread | None = None
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._closed = False
        self._watch: tuple[int, sqlite3.Connection] | None = None  # versions of different connections cannot be compared
        self._patient = threading.Semaphore(patient)  # places for those who wait as long as it takes; the others hurry
        self._busy_since = math.inf
        self._generation = 0
        self._strange: tuple[float, list] = 0, []  # since when something else lies at the path, and how it looks
        self._is_failing, self._said = False, dict[str, float]()  # what was logged of that, and when
        self.forgetters: list[Callable[[], None]] = []  # called when what is remembered of the database may no longer hold
        self._enter(may_create=True)

    def begin(self) -> None:
        """Begin a piece of work on this thread that owes nothing to what the thread has read before."""
        self._mine.generation = None

    def reader(self) -> sqlite3.Connection:
        """Return this thread's connection for reading. Raises Busy where the file is being replaced, or was since `begin()`."""
        readers, generation = self._readers, self._generation  # in this order: what is left is left before there is a new generation
        if self._mine.generation not in (None, generation) or readers is None:
            self.begin()
            raise Busy(_REPLACED)
        if not hasattr(readers, "held"):
            readers.held = _Reader(self._connect(generation, read_only=True))
        self._mine.generation = generation
        return readers.held.connection

    def _connect(self, generation: int, read_only: bool = False) -> sqlite3.Connection:
        """Open one more connection to the writer's file. Raises Busy where another lies at the path.

        That one must not be read: SQLite finds the log by name too, and would take the writer's for the other file's.
        """
        with self._opening:
            if self._generation == generation and self._readers is not None and self._is_in_place():
                connection = connect(self.path, read_only)
                # The log is opened by the first read: it must be the right one before and after.
                if self._is_in_place() and connection.execute("pragma schema_version").fetchone() and self._is_in_place():
                    self._all_readers.add(connection)
                    return connection
        raise Busy(_REPLACED)

    @contextlib.contextmanager
    def snapshot(self, seconds: float | None = None) -> Iterator[sqlite3.Connection]:
        """Give a reader on which everything sees one state of the database. Raises Busy when it takes longer than `seconds`."""
        connection = self.reader()
        connection.deadline = deadline = time.monotonic() + seconds if seconds else math.inf
        connection.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
        connection.execute("begin")
        try:
            yield connection
        except sqlite3.OperationalError as error:
            if "interrupted" in str(error):
                raise Busy(too_long(seconds)) from error
            raise
        finally:
            connection.deadline = math.inf
            connection.set_progress_handler(None, 0)
            if connection.in_transaction:
                connection.execute("rollback")
            connection.rest()

    def version(self) -> tuple[int, int]:
        """Return what is another value after every change of the database, by whichever process. Raises Busy as `reader()` does."""
        generation = self._generation
        with self._lock:
            if self._watch is None or self._watch[0] != generation:
                self._watch = generation, self._connect(generation, read_only=True)
            return generation, self._watch[1].execute("pragma data_version").fetchone()[0]

    def submit(self, work: Work, item: Any) -> Future:
        """Queue `work(connection, [item, …])`; neighbours with the same work are done in one call. The Future is set after the commit.

        Raises Busy when the queue is full.
        """
        job = _Job(work, item, self._mine.generation)
        with self._lock:
            if self._closed:
                raise Busy("The server is stopping.")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mininumbers-writer", daemon=True)
                self._thread.start()
            if self._queue.qsize() >= self._queue_size:
                raise Busy("Too many hits are waiting to be written. Try again in a moment.")
            self._queue.put(job)  # under the lock, so that nothing is queued behind the word to stop
        return job.done

    def write(self, work: Work, item: Any = None) -> Any:
        """Do `work(connection, [item])` and return its result once it is committed. Raises Busy where that takes too long."""
        is_patient = self._patient.acquire(blocking=False)
        try:
            if not is_patient and time.monotonic() - self._busy_since > HURRY:
                raise Busy("The database is held by another program. Try again in a moment.")
            return self.wait(self.submit(work, item), WRITE_TIMEOUT if is_patient else HURRY)
        finally:
            if is_patient:
                self._patient.release()

    @staticmethod
    def wait(done: Future, seconds: float) -> Any:
        """Return a Future's result. Raises Busy where the database does not answer in time or cannot be written."""
        try:
            return done.result(seconds)
        except FutureTimeout:
            if not done.cancel():  # it has begun: its own outcome is the true answer
                return done.result()
            raise Busy("The database did not answer in time. Try again in a moment.") from None

    def transact(self, function: Callable[[sqlite3.Connection], Any]) -> Any:
        """Run `function(connection)` alone in its part of a transaction and return its result once it is committed and all forget."""
        return self.write(_Alone(function))

    def vacuum(self, pages: int = 200) -> bool:
        """Give up to `pages` free pages back to the file system; return whether that gave any, so that more may follow."""
        def step(connection: sqlite3.Connection) -> bool:
            before, = connection.execute("pragma freelist_count").fetchone()
            connection.execute(f"pragma incremental_vacuum({pages:d})").fetchall()
            return connection.execute("pragma freelist_count").fetchone()[0] < before
        return self.transact(step)

    def probe(self) -> None:
        """Raise Busy unless something can be written. Shares its transaction with whatever waits, as anybody may ask for it."""
        self.write(_probe)

    def truncate_log(self) -> bool:
        """Move the write-ahead log into the database and empty it; return whether that succeeded, which a long read can prevent."""
        with contextlib.closing(self._connect(self._generation)) as connection:
            connection.execute("pragma busy_timeout = 1000")
            return connection.execute("pragma wal_checkpoint(truncate)").fetchone()[0] == 0

    def close(self) -> None:
        """Write what is queued, stop the writer and close every connection."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._thread:
            self._queue.put(None)
            self._thread.join()
        with self._opening:
            for connection in list(self._all_readers):
                connection.close()
        with contextlib.suppress(sqlite3.Error, AttributeError):
            if self._readers and not self._is_in_place():
                self._leave()
        self._writer.close()

    def _run(self) -> None:
        jobs: list[_Job] | None = []
        while jobs is not None:
            jobs = self._next_batch()
            if jobs:
                self._commit(jobs)
            elif jobs is not None:
                self._commit([])

    def _next_batch(self) -> list[_Job] | None:
        """Wait for work and return all that is there; None when it is time to stop. Without a file, look for one now and then."""
        try:
            first = self._queue.get(timeout=SETTLED / 4 if self._readers is None else None)
        except queue.Empty:
            return []
        if first is None:
            return None
        jobs = [first]
        with contextlib.suppress(queue.Empty):
            while len(jobs) < BATCH:
                job = self._queue.get_nowait()
                if job is None:
                    self._queue.put(None)  # finish these first
                    break
                jobs.append(job)
        return jobs

    def _commit(self, jobs: list[_Job]) -> None:
        """Do the jobs in one transaction and tell each its result only when that is on the disk."""
        self._busy_since = time.monotonic()
        try:
            self._follow()
            self._writer.execute("begin immediate")
            jobs = _claim(jobs)  # not before: who gives up while another process holds the lock is not written
            outcomes = self._transaction(jobs)
        except (sqlite3.Error, DatabaseError, OSError) as error:
            jobs = _claim(jobs)
            outcomes = [(self._refusal(error), None)] * len(jobs)
        for job, (error, result) in zip(jobs, outcomes):
            job.done.set_exception(error) if error else job.done.set_result(result)
        self._busy_since = math.inf

    def _transaction(self, jobs: list[_Job]) -> list[tuple[Exception | None, Any]]:
        """Do the jobs in the transaction that has begun and return (error, result) of each, once that is on the disk."""
        db = self._writer
        try:
            self._notice_others()
            groups = list(_groups(jobs))
            outcomes = [outcome for group in groups for outcome in self._attempt(group, alone=len(groups) == 1)]
            db.execute("commit")
            if any(isinstance(job.work, _Alone) for job in jobs):
                self.forget()
            if self._is_failing:
                self._say(logging.WARNING, "writing works again")
            return outcomes
        except sqlite3.Error as error:
            return [(self._refusal(error), None)] * len(jobs)
        finally:
            if db.in_transaction:
                db.execute("rollback")

    def _refusal(self, error: Exception) -> Busy:
        """Return what callers are told when nothing can be written."""
        self.forget()
        self._say(logging.ERROR, f"writing failed: {error}")
        busy = Busy("The database cannot be written just now. Try again in a moment.")
        busy.__cause__ = error
        return busy

    def _say(self, level: int, text: str) -> None:
        """Log how writing fares, the same at most once a minute: with a disk that is nearly full it may change with every hit."""
        now = time.monotonic()
        if now - self._said.get(text, -math.inf) >= 60:
            self._said[text] = now
            log.log(level, "%s", text)
        self._is_failing = level == logging.ERROR

    def _attempt(self, jobs: list[_Job], alone: bool = False) -> list[tuple[Exception | None, Any]]:
        """Do a group of like jobs; where it fails, each by itself, so that only the one at fault fails.

        A group that is alone in its transaction needs no savepoint, for which SQLite copies every page that then changes.
        """
        if jobs[0].generation not in (None, self._generation):
            return [(Busy(_REPLACED), None)] * len(jobs)
        db = self._writer
        if not alone:
            db.execute("savepoint attempt")
        try:
            results = jobs[0].work(db, [job.item for job in jobs])
            if not alone:
                db.execute("release attempt")
            return [(None, result) for result in results]
        except Exception as error:
            if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
                raise  # the disk or the file, not this work: nothing else in this transaction can succeed either
            failure = error
        self.forget()
        if alone:
            db.execute("rollback")
            db.execute("begin immediate")
        else:
            db.execute("rollback to attempt")
            db.execute("release attempt")
        if len(jobs) == 1:
            return [(failure, None)]
        return [self._attempt([job])[0] for job in jobs]

    def _notice_others(self) -> None:
        """Forget what is remembered of the database when another process has written to it."""
        version, = self._writer.execute("pragma data_version").fetchone()
        if version != self._seen_version:
            self.forget()
        self._seen_version = version

    def forget(self) -> None:
        """Make everybody forget what they remember of the database."""
        for forget in self.forgetters:
            forget()

    def _is_in_place(self) -> bool:
        """Return whether the file that the writer has open is still the one of that name, and so are its log and index."""
        return self._files == [_file_identity(path) for path in self._names]

    def _enter(self, may_create: bool = False) -> None:
        """Open the file at the path. Raises DatabaseError."""
        self._writer = open_database(self.path, self._schema, may_create)
        real = os.path.realpath(self.path)  # SQLite has the log beside the file itself, not beside a link to it
        self._names = [self.path, f"{real}-wal", f"{real}-shm"]
        self._files = [_file_identity(path) for path in self._names]
        self._seen_version = 0
        self._generation += 1
        self._readers: threading.local | None = threading.local()

    def _leave(self) -> None:
        """Close a file that has lost its name: what was acknowledged is moved from the log into it, wherever it lies now.

        Nobody may have it open when the next is opened. SQLite finds log and index by name: left behind, they would be taken for
        the other file's and spoil it. Raises sqlite3.OperationalError while somebody still reads; then it is to be tried again.
        """
        with self._lock:
            self._watch = None
        with self._opening:
            self._readers = None
        if len(self._all_readers):
            gc.collect()  # closes those that nobody uses just now: each is in a cycle with its own cache
        if len(self._all_readers):
            raise sqlite3.OperationalError("the database file was removed or replaced while it is read")
        if self._writer.execute("pragma wal_checkpoint(truncate)").fetchone()[0]:
            raise sqlite3.OperationalError("the database file was removed or replaced while another program uses it")
        self._writer.close()
        if _file_identity(self.path) != self._files[0]:
            for path, identity in zip(self._names[1:], self._files[1:]):
                if _file_identity(path) == identity:
                    os.unlink(path)

    def _follow(self) -> None:
        """Make sure that what is written goes into the file at the path. Raises where that is none of ours, or is still being copied."""
        if self._readers is not None and self._is_in_place():
            return
        with contextlib.suppress(sqlite3.ProgrammingError):  # it was closed before
            self._leave()
        looks, (since, before) = _look(self.path), self._strange
        if not looks:
            raise sqlite3.OperationalError(f"{self.path} is gone: put it back")
        if looks != before:
            self._strange = time.monotonic(), looks
        elif time.monotonic() - since >= SETTLED:
            self._enter()
            self.forget()
            log.warning("%s was replaced; going on with the file that is there now", self.path)
            return
        raise sqlite3.OperationalError(f"{self.path} was removed or replaced; what lies there now is opened when it lies still")


def _file_identity(path: str) -> tuple[int, int] | None:
    """Return what tells a file from another that was put in its place; what is written to the old one would be lost."""
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def _look(path: str) -> list[tuple]:
    """Return what changes while a database is being copied to a path; nothing where there is none."""
    with contextlib.suppress(OSError):
        found = [os.stat(path)]
        with contextlib.suppress(OSError):
            found.append(os.stat(f"{path}-wal"))
        return [(each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in found]
    return []


def _groups(jobs: list[_Job]) -> Iterator[list[_Job]]:
    """Split jobs, in their order, into runs that have the same work and were made of the same file."""
    run: list[_Job] = []
    for job in jobs:
        if run and (job.work, job.generation) != (run[0].work, run[0].generation):
            yield run
            run = []
        run.append(job)
    if run:
        yield run


def _claim(jobs: list[_Job]) -> list[_Job]:
    """Return the jobs that their callers still wait for, who from now on wait to the end."""
    return [job for job in jobs if job.done.set_running_or_notify_cancel()]


def unseal(db: sqlite3.Connection, site_id: int, day: int) -> None:
    """Let a site's days from one on be sealed anew, since something of them was or will be written."""
    db.execute("delete from days where site_id = ? and day >= ?", (site_id, day))


def check_database(store: Store) -> list[str]:
    """Return what is wrong with the database, in lines for a person; none means that all is well."""
    with store.snapshot() as db:
        problems = [line for line, in db.execute("pragma integrity_check") if line != "ok"]
        problems += [f"{table}: a row points to nothing in {parent}" for table, _, parent, _ in db.execute("pragma foreign_key_check")]
        for message, query in _INVARIANTS:
            count, = db.execute(query).fetchone()
            problems += [f"{count} {message}"] if count else []
    return problems


# Every column that holds the id of a text.
TEXT_COLUMNS = {"hits": ("name", "page", "hostname"), "visits": ("entry_page", "exit_page"), "props": ("key", "value"),
                "clients": tuple(each.name for each in dataclasses.fields(Client)),
                "origins": tuple(each.name for each in dataclasses.fields(Origin))}
_INVARIANTS = (
    ("hits belong to no visit", """
        select count(*) from hits h where not exists (select 1 from visits v where v.site_id = h.site_id and v.id = h.visit_id)"""),
    ("visits have more pageviews than they tell", """
        select count(*) from (
            select v.pageviews as told, count(*) as found from hits h join visits v on v.site_id = h.site_id and v.id = h.visit_id
            where h.name = 1 group by h.site_id, h.visit_id)
        where told < found"""),
    ("visits name a client or an origin that is not there", """
        select count(*) from visits where client_id not in (select id from clients) or origin_id not in (select id from origins)"""),
    *((f"rows of {table} belong to no hit",
       f"select count(*) from {table} r where not exists (select 1 from hits h where h.site_id = r.site_id and h.id = r.hit_id)")
      for table in ("props", "revenue")),
    *((f"rows of {table} name a text that is not there",
       f"select count(*) from {table} where " + " or ".join(f"{column} not in (select id from texts)" for column in columns))
      for table, columns in TEXT_COLUMNS.items()),
)


# ---- limits ----------------------------------------------------------------------------------------------------------
# How often what may be asked. All of it is in memory, bounded, and keyed by hashes that mean nothing in another process: no
# address is kept, and a restart forgets everything.

LIMITER_KEYS = 20_000  # remembered at once, some 3 MB; in a flood of more addresses those that began longest ago are forgotten


def network_of(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 of an IPv6 one, of which a customer has at least that."""
    parsed = _ip(address) if ":" in address else None
    return str(ipaddress.ip_network((parsed.packed[:8] + bytes(8), 64))) if parsed and parsed.version == 6 else address


def _say_seconds(seconds: float) -> str:
    whole = math.ceil(seconds)
    return f"{whole} second{'' if whole == 1 else 's'}"


class Limiter:
    """Counts what each key did within the minute that began with the first."""

    def __init__(self, clock: Clock, keys: int = LIMITER_KEYS):
        self._clock, self._most = clock, keys
        self._seen: OrderedDict[int, list] = OrderedDict()  # hash of a key → [when its minute began, how often since]
        self._lock = threading.Lock()

    def take(self, key: tuple, allowed: int) -> float:
        """Count once more; return 0, or if that is more than allowed (of which 0 is no limit), the seconds until it is not."""
        if not allowed:
            return 0
        now, hashed = self._clock(), hash(key)
        with self._lock:
            entry = self._seen.get(hashed)
            if entry is None or not entry[0] <= now < entry[0] + 60:
                self._seen.pop(hashed, None)
                self._seen[hashed] = entry = [now, 0]
                if len(self._seen) > self._most:
                    self._seen.popitem(last=False)
            entry[1] += 1
            return 0 if entry[1] <= allowed else entry[0] + 60 - now

    def check(self, key: tuple, allowed: int, what: str) -> None:
        """Count once more. Raises TooMany where that is more than allowed."""
        if seconds := self.take(key, allowed):
            raise TooMany(f"More than {allowed} {what} in a minute. Try again in {_say_seconds(seconds)}.", seconds)


class Attempts:
    """Slows down guessing at passwords and codes, without letting a stranger keep the owner out.

    Failures count against the address, and against the account. An address that failed too often waits ever longer, up to a quarter
    of an hour. Of an account at which many have failed, only who has failed too waits longer still: a first try from elsewhere is
    always heard. A browser that has signed in to the account before is known by a mark, and then neither strangers at its address
    nor those at its account count, only its own failures.
    """

    FORGOTTEN = 3600  # seconds after the last failure

    def __init__(self, clock: Clock):
        self._clock = clock
        self._failures: OrderedDict[int, tuple[int, float]] = OrderedDict()  # hash of a key → (how many, when the last was)
        self._lock = threading.Lock()

    def begin(self, address: str, username: str, mark: str = "") -> tuple[int, ...]:
        """Count an attempt as failed, for now, and return what `forgive` takes. Raises TooMany where it comes too early.

        Counted before it is judged, so that many attempts at once are no way around.
        """
        with self._lock:
            if mark:
                keys = (hash(("mark", username, mark)),)
                wait = self._wait(keys[0], 5, 60)
            else:
                keys = (hash(("address", network_of(address))), hash(("account", username)))
                wait = max(self._wait(keys[0], 5, 900), self._wait(keys[0], 10, 60, self._count(keys[1])) if self._count(keys[0]) else 0)
            if wait > 0:
                raise TooMany(f"Too many attempts to sign in. Try again in {_say_seconds(wait)}.", wait)
            for key in keys:
                self._failures[key] = self._count(key) + 1, self._clock()
                self._failures.move_to_end(key)
            while len(self._failures) > LIMITER_KEYS:
                self._failures.popitem(last=False)
            return keys

    def forgive(self, keys: tuple[int, ...]) -> None:
        """Take an attempt back that did not fail. The others stay: an attacker may have an account too."""
        with self._lock:
            for key in keys:
                count, at = self._failures.get(key, (0, 0.0))
                if count > 1:
                    self._failures[key] = count - 1, at
                else:
                    self._failures.pop(key, None)

    def _count(self, key: int) -> int:
        count, at = self._failures.get(key, (0, 0.0))
        return count if abs(self._clock() - at) < self.FORGOTTEN else 0

    def _wait(self, key: int, free: int, most: int, count: int | None = None) -> float:
        """Return the seconds to wait: none for the first failures, its own or so many, then 1, 2, 4 and so on after its own last."""
        count, (_, at) = self._count(key) if count is None else count, self._failures.get(key, (0, 0.0))
        delay = min(most, 2 ** (count - free)) if count >= free else 0
        return min(delay, at + delay - self._clock())


# ---- sites, users, tokens --------------------------------------------------------------------------------------------

SITE_SECONDS = 0.1  # for which what was read of a site, or of settings, is taken to hold, should another process change it


@dataclass(frozen=True)
class Site:
    """A site as it is in effect: where it has no setting of its own, the instance's stands in."""

    id: int
    domain: str
    timezone: str
    hostnames: tuple[str, ...]
    mode: str
    rotation_hours: int
    retention_days: int
    gpc: str

    @functools.cached_property
    def zone(self) -> zoneinfo.ZoneInfo:
        """The site's time zone."""
        return zone_of(self.timezone)

    def allows(self, hostname: str) -> bool:
        """Return whether hits may come from `hostname`: the site's domain, what lies below it, or a listed host."""
        return any(_host_matches(allowed, hostname) for allowed in (self.domain, f"*.{self.domain}", *self.hostnames))


    def owns(self, hostname: str) -> bool:
        """Return whether a referrer on `hostname` is the site itself; that every host may report makes none of them its own."""
        return Site.allows(dataclasses.replace(self, hostnames=tuple(each for each in self.hostnames if each != "*")), hostname)


def _host_matches(allowed: str, hostname: str) -> bool:
    if allowed.startswith("*."):
        return hostname.endswith(allowed[1:])
    return allowed in ("*", hostname)


_SITE_COLUMNS = "id, domain, timezone, hostnames, mode, rotation_hours, retention_days, gpc"


def _site(row: Sequence, settings: Settings) -> Site:
    site_id, domain, timezone_name, hostnames, *own = row
    effective = [getattr(settings, name) if value is None else value for name, value in zip(SITE_OVERRIDES, own)]
    return Site(site_id, domain, timezone_name, tuple(filter(None, hostnames.split(","))), *effective)


def find_site(db: sqlite3.Connection, settings: Settings, domain: str) -> Site | None:
    """Return the site of that domain ("www." or not), or None."""
    row = db.execute(f"select {_SITE_COLUMNS} from sites where domain = ?", (host_of(domain),)).fetchone()
    return _site(row, settings) if row else None


def get_site(db: sqlite3.Connection, settings: Settings, domain: str) -> Site:
    """Return the site of that domain. Raises NotFound."""
    if site := find_site(db, settings, domain):
        return site
    raise NotFound(f"There is no site {domain!r} here; `mininumbers site list` shows those there are.")


def list_sites(db: sqlite3.Connection, settings: Settings) -> list[Site]:
    """Return all sites by name."""
    return [_site(row, settings) for row in db.execute(f"select {_SITE_COLUMNS} from sites order by domain")]


def check_site_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a site's settings as its row wants them. Raises InvalidInput, which names what is wrong.

    An override that is the word "default" becomes null: as the instance says.
    """
    row = dict(values)
    if "domain" in row:
        row["domain"] = _check_domain(row["domain"])
    if "timezone" in row:
        row["timezone"] = zone_of(row["timezone"]).key
    if "hostnames" in row:
        row["hostnames"] = ",".join(_check_hostname(part.strip()) for part in row["hostnames"].split(",") if part.strip())
    for name in SITE_OVERRIDES:
        if row.get(name) is not None:
            row[name] = None if row[name] == "default" else parse_setting(name, str(row[name]))
            if row[name] is not None:
                _check_setting(SETTINGS[name], row[name])
    return row


def _check_domain(text: str) -> str:
    domain = host_of(text)
    if not domain:
        raise InvalidInput.of("domain", f"{text!r} is not a domain; write it as in example.com, without https:// and path")
    return domain


def _check_hostname(text: str) -> str:
    wildcard, bare = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    if text != "*" and not host_of(bare):
        raise InvalidInput.of("hostnames", f"{text!r} is neither a host name, *.domain nor *")
    return text if text == "*" else wildcard + host_of(bare)


def add_site(db: sqlite3.Connection, now: int, **values: Any) -> int:
    """Add a site and return its id. Raises InvalidInput when it exists or a value is wrong."""
    row = check_site_values(values)
    if db.execute("select 1 from sites where domain = ?", (row["domain"],)).fetchone():
        raise InvalidInput.of("domain", f"{row['domain']} exists already")
    row["created_at"] = now
    names = ", ".join(row)
    return db.execute(f"insert into sites ({names}) values ({', '.join(':' + name for name in row)})", row).lastrowid


def set_site(db: sqlite3.Connection, settings: Settings, now: int, domain: str, **values: Any) -> None:
    """Change settings of a site. Raises NotFound and InvalidInput. What changes its epochs ends those in progress."""
    before = get_site(db, settings, domain)
    row = check_site_values(values)
    if row:
        assignments = ", ".join(f"{name} = :{name}" for name in row)
        db.execute(f"update sites set {assignments} where id = :id", {**row, "id": before.id})
    follow_change(db, now, before, get_site(db, settings, domain))


def follow_change(db: sqlite3.Connection, now: int, before: Site, after: Site) -> None:
    """Do what a change of a site's zone or rotation, by its own settings or the instance's, demands."""
    if before.timezone != after.timezone:
        unseal(db, before.id, 0)
    if (before.timezone, before.rotation_hours) != (after.timezone, after.rotation_hours):
        end_epochs(db, before.id, now)


def differences(before: Site | Mapping, after: Site | Mapping) -> str:
    """Return what changed of a site or of settings, for people: "mode standard → strict"."""
    old, new = (dataclasses.asdict(each) if dataclasses.is_dataclass(each) else each for each in (before, after))

    def say(value: Any) -> str:
        return ", ".join(value) or "none" if isinstance(value, (tuple, list)) else str(value)
    return "; ".join(f"{name} {say(old[name])} → {say(value)}" for name, value in new.items() if old[name] != value)


def remove_site(db: sqlite3.Connection, settings: Settings, domain: str) -> None:
    """Remove a site at once, and that anybody may see it; its data no longer counts and `purge` deletes it. Raises NotFound."""
    site = get_site(db, settings, domain)
    db.execute("delete from salts where site_id = ?", (site.id,))
    db.execute("delete from sites where id = ?", (site.id,))
    db.execute("delete from tokens where not every_site and id not in (select token_id from token_sites)")  # there is nothing left for them


ANNOTATION_LENGTH = 500  # characters


def list_annotations(db: sqlite3.Connection, site: Site, first: date, last: date) -> list[dict]:
    """Return [{"id", "at", "text", "author"}] of the notes on the local days from `first` to `last`, the oldest first."""
    rows = db.execute("select id, at, text, author from annotations where site_id = ? and at between ? and ? || '~' order by at, id limit 1000",
                      (site.id, first.isoformat(), last.isoformat()))
    return [dict(zip(("id", "at", "text", "author"), row)) for row in rows]


def check_annotation(values: Mapping[str, str]) -> dict[str, str]:
    """Return a note's day or hour and its text as its row wants them. Raises InvalidInput."""
    row = {name: value.strip() for name, value in values.items()}
    if "at" in row:
        try:
            datetime.fromisoformat(row["at"] if re.fullmatch(r"(19|20)\d\d-\d\d-\d\d( \d\d:00:00)?", row["at"], re.ASCII) else "")
        except ValueError:
            raise InvalidInput.of("at", "must be a day such as 2026-03-02, or an hour such as 2026-03-02 14:00:00") from None
    if not 0 < len(row.get("text", "-")) <= ANNOTATION_LENGTH:
        raise InvalidInput.of("text", f"must have 1 to {ANNOTATION_LENGTH} characters")
    return row


def add_annotation(db: sqlite3.Connection, site: Site, author: str, at: str, text: str) -> int:
    """Add a note to a site and return its id. Raises InvalidInput."""
    row = check_annotation({"at": at, "text": text})
    return db.execute("insert into annotations (site_id, at, text, author) values (?, ?, ?, ?)", (site.id, row["at"], row["text"], author)).lastrowid


def change_annotation(db: sqlite3.Connection, annotation_id: int, **values: str) -> None:
    """Change a note's day or hour, its text, or both. Raises InvalidInput."""
    row = {"at": None, "text": None, **check_annotation(values), "id": annotation_id}
    db.execute("update annotations set at = coalesce(:at, at), text = coalesce(:text, text) where id = :id", row)


def remove_annotation(db: sqlite3.Connection, annotation_id: int) -> None:
    """Remove a note."""
    db.execute("delete from annotations where id = ?", (annotation_id,))


class CurrentSettings:
    """The settings in effect: those that were given, below them those stored in the database, then the defaults.

    Called, it returns Settings; what was read holds until something is written, or for 0.1 s should another process do so.
    """

    def __init__(self, given: Settings, store: Store):
        self.started_with, self._store = given, store
        self._held: tuple[Settings, float] = given, 0.0
        store.forgetters.append(self._forget)

    def __call__(self) -> Settings:
        settings, until = self._held
        if time.monotonic() < until:
            return settings
        settings = self.read(self._store.reader())
        self._held = settings, time.monotonic() + SITE_SECONDS
        return settings

    def _forget(self) -> None:
        self._held = self.started_with, 0.0

    def read(self, db: sqlite3.Connection) -> Settings:
        """Return the settings as the database has them. What an older or newer version stored and this one refuses is left out."""
        stored = {}
        for name, text in db.execute("select name, value from settings"):
            if name in CHANGEABLE and name not in self.started_with.given:
                with contextlib.suppress(InvalidInput):
                    stored[name] = _checked_setting(name, text)
        return dataclasses.replace(self.started_with, **stored) if stored else self.started_with

    def source_of(self, db: sqlite3.Connection, name: str) -> str:
        """Return where a setting's value comes from: given, stored or default."""
        if name in self.started_with.given:
            return "given"
        return "stored" if db.execute("select 1 from settings where name = ?", (name,)).fetchone() else "default"

    def change(self, db: sqlite3.Connection, now: int, values: Mapping[str, Any]) -> str:
        """Store settings, of which None goes back to the default, and return what that changed. Raises InvalidInput of every one that is wrong."""
        before, mistakes = self.read(db), []
        for name, value in values.items():
            try:
                self._store_one(db, name, value)
            except InvalidInput as error:
                mistakes += error.details
        if mistakes:
            raise InvalidInput.of_all(mistakes)
        after = self.read(db)
        for old, new in zip(list_sites(db, before), list_sites(db, after)):
            follow_change(db, now, old, new)
        return differences({name: getattr(before, name) for name in CHANGEABLE}, {name: getattr(after, name) for name in CHANGEABLE})

    def _store_one(self, db: sqlite3.Connection, name: str, value: Any) -> None:
        if name not in SETTINGS:
            raise InvalidInput.of(name, "is no setting")
        if name not in CHANGEABLE or name in self.started_with.given:
            raise InvalidInput.of(name, f"is set where the server is started: change --{name.replace('_', '-')} "
                                        f"or MININUMBERS_{name.upper()} there, and start it again")
        if value is None:
            db.execute("delete from settings where name = ?", (name,))
        else:
            db.execute("insert or replace into settings (name, value) values (?, ?)", (name, str(_checked_setting(name, value))))


def _checked_setting(name: str, value: Any) -> Any:
    """Return the value of a setting that came as text or number. Raises InvalidInput."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise InvalidInput.of(name, "must be text or a whole number")
    parsed = parse_setting(name, str(value))
    _check_setting(SETTINGS[name], parsed)
    return parsed


ROLES = ("viewer", "editor", "admin", "owner")  # each may all that the ones before it may


@dataclass(frozen=True)
class Principal:
    """Who asks: a person, a program with a token, or the operator at the command line.

    `site_ids` are the sites they may see; None is every site, those to come too.
    """

    name: str
    kind: str = "person"  # or token, or operator
    role: str = "viewer"
    site_ids: frozenset[int] | None = None
    id: int = 0  # of the person or token
    session_id: int = 0

    def may(self, role: str) -> bool:
        """Return whether this principal may what `role` may."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def may_read(self, site: Site) -> bool:
        """Return whether this principal may see the site's numbers."""
        return self.site_ids is None or site.id in self.site_ids

    @property
    def actor(self) -> str:
        """What the audit trail and notes call this principal; no person may be called like a token or the operator."""
        return f"token {self.name}" if self.kind == "token" else self.name

    def require(self, role: str) -> None:
        """Raise Forbidden unless this principal may what `role` may."""
        if not self.may(role):
            raise Forbidden(f"Only {' or '.join(ROLES[ROLES.index(role):])} may do this.")


OPERATOR = Principal("the command line", "operator", "owner")


def note(db: sqlite3.Connection, now: float, by: Principal, action: str, object: str, details: str = "") -> None:
    """Write into the audit trail who changed what. Never give it a secret, nor anything of a visitor's."""
    db.execute("insert into audit (at, actor, action, object, details) values (?, ?, ?, ?, ?)", (int(now), by.actor, action, object, details))


def read_audit(db: sqlite3.Connection, before: int | None = None, limit: int = 100) -> tuple[list[dict], bool]:
    """Return (the newest entries of the audit trail, of those before an id; whether there are older ones)."""
    rows = db.execute("select id, at, actor, action, object, details from audit where id < ? order by id desc limit ?",
                      (2 ** 62 if before is None else before, limit + 1)).fetchall()
    names = ("id", "at", "actor", "action", "object", "details")
    return [dict(zip(names, row)) for row in rows[:limit]], len(rows) > limit


SCRYPT = {"n": 2 ** 14, "r": 8, "p": 5}  # OWASP's parameters for 16 MB of memory
MINIMUM_PASSWORD = 8  # characters, as NIST SP 800-63B asks for
SESSION_SECONDS = 30 * 86_400  # at the longest
SESSION_IDLE = 7 * 86_400
SEEN_SECONDS = 300  # when somebody was last seen is noted as exactly as this, so that looking is not writing all the time
INVITE_SECONDS = 7 * 86_400
RECOVERY_CODES = 10
CODE_SECONDS = 30  # that a code of the second factor is for, by RFC 6238


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> tuple[bytes, bytes]:
    """Return (what is compared, a key that only the password gives): neither tells the other, as blocks of PBKDF2 do not."""
    derived = hashlib.scrypt(password.encode("utf-8", "surrogatepass"), salt=salt, n=n, r=r, p=p, maxmem=2 ** 30, dklen=128)
    return derived[:64], derived[64:]


def hash_password(password: str) -> str:
    """Return a salted scrypt hash together with its parameters."""
    salt = secrets.token_bytes(16)
    return "$".join(["scrypt", *map(str, SCRYPT.values()), salt.hex(), _scrypt(password, salt, **SCRYPT)[0].hex()])


def open_password(password: str, stored: str) -> bytes | None:
    """Return the key that a password gives if `stored` was made from it, else None, in time that does not tell where they differ."""
    _, n, r, p, salt, known = stored.split("$")
    given, key = _scrypt(password, bytes.fromhex(salt), int(n), int(r), int(p))
    return key if hmac.compare_digest(given, bytes.fromhex(known)) else None


def is_outdated(stored: str) -> bool:
    """Return whether a hash was made with parameters below today's."""
    return any(int(then) < now for then, now in zip(stored.split("$")[1:4], SCRYPT.values()))


def seal_secret(key: bytes, secret: bytes) -> bytes:
    """Return `secret`, of at most 64 bytes, so that only the same key opens it: a one-time stream of BLAKE2b, and a tag."""
    nonce = secrets.token_bytes(16)
    hidden = bytes(a ^ b for a, b in zip(secret, hashlib.blake2b(nonce, key=key, person=b"stream").digest()))
    return nonce + hashlib.blake2b(nonce + hidden, key=key, person=b"tag", digest_size=16).digest() + hidden


def unseal_secret(key: bytes, sealed: bytes) -> bytes:
    """Return what was sealed. Raises Unauthorized where the key is another."""
    nonce, tag, hidden = sealed[:16], sealed[16:32], sealed[32:]
    if not hmac.compare_digest(tag, hashlib.blake2b(nonce + hidden, key=key, person=b"tag", digest_size=16).digest()):
        raise Unauthorized("The password was changed just now. Sign in again.")
    return bytes(a ^ b for a, b in zip(hidden, hashlib.blake2b(nonce, key=key, person=b"stream").digest()))


def totp(secret: bytes, step: int) -> str:
    """Return the six digits of a time step. Source: RFC 6238, RFC 4226."""
    digest = hmac.digest(secret, step.to_bytes(8, "big"), "sha1")
    start = digest[-1] & 15
    return f"{int.from_bytes(digest[start:start + 4], 'big') % 2 ** 31 % 10 ** 6:06d}"


def totp_step(secret: bytes, code: str, now: float) -> int:
    """Return the time step that a code is for, of this one and its neighbours. Raises SecondFactorNeeded.

    Every other code is answered alike: who guesses must not learn that one was right at another time.
    """
    current = int(now) // CODE_SECONDS
    for step in (current, current - 1, current + 1):
        if step >= 0 and hmac.compare_digest(totp(secret, step).encode(), code.encode("utf-8", "surrogatepass")):
            return step
    clock = datetime.fromtimestamp(now, timezone.utc).strftime("%H:%M:%S UTC")
    raise SecondFactorNeeded("This code is wrong, or for another time. Enter the newest one that your app shows, or a recovery code. The "
                             f"server's clock says {clock}: if that is not the time, set it, and else that of the device with the app.")


def totp_uri(username: str, secret: str) -> str:
    """Return the address that an authenticator app reads from a QR code. Source: Google Authenticator's Key URI Format."""
    return f"otpauth://totp/Mini%20Numbers:{quote(username, safe='')}?secret={secret}&issuer=Mini%20Numbers"


def new_recovery_codes(db: sqlite3.Connection, user_id: int) -> list[str]:
    """Return new recovery codes of a person, in place of those they had; only hashes are kept."""
    texts = [base64.b32encode(secrets.token_bytes(10)).decode().lower() for _ in range(RECOVERY_CODES)]
    db.execute("delete from recovery_codes where user_id = ?", (user_id,))
    db.executemany("insert into recovery_codes (code_hash, user_id) values (?, ?)", [(secret_hash(text), user_id) for text in texts])
    return ["-".join(re.findall("....", text)) for text in texts]


def secret_hash(secret: str) -> bytes:
    """Return what is stored of a random secret. It has 80 bits or more of its own, so a slow hash would add nothing."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def has_users(db: sqlite3.Connection) -> bool:
    """Return whether anybody has an account."""
    return db.execute("select 1 from users").fetchone() is not None


class User(NamedTuple):
    """A row of `users`."""

    id: int
    username: str
    password_hash: str
    role: str
    totp_secret: bytes | None
    totp_step: int


def find_user(db: sqlite3.Connection, username: str) -> User | None:
    """Return the person of that name, or None."""
    row = db.execute("select id, username, password_hash, role, totp_secret, totp_step from users where username = ?", (username,)).fetchone()
    return User(*row) if row else None


def named_user(db: sqlite3.Connection, username: str) -> User:
    """Return the person of that name. Raises NotFound."""
    if user := find_user(db, username):
        return user
    raise NotFound(f"There is no account {username!r} here; `mininumbers user list` shows those there are.")


def get_user(db: sqlite3.Connection, user_id: int) -> User:
    """Return a person. Raises NotFound."""
    row = db.execute("select id, username, password_hash, role, totp_secret, totp_step from users where id = ?", (user_id,)).fetchone()
    if row is None:
        raise NotFound("There is no such person here; perhaps somebody removed them just now.")
    return User(*row)


def add_user(db: sqlite3.Connection, now: int, username: str, password_hash: str, role: str = "owner",
             site_ids: Iterable[int] | None = None) -> int:
    """Add an account and return its id. Raises InvalidInput when the name is taken."""
    if any(_look_of(username) == _look_of(other) for other, in db.execute("select username from users")):
        raise InvalidInput.of("username", f"{username!r} exists already")
    user_id = db.execute("insert into users (username, password_hash, created_at, role) values (?, ?, ?, ?)",
                         (username, password_hash, now, role)).lastrowid
    set_access(db, user_id, role, site_ids)
    return user_id


def _look_of(username: str) -> str:
    """Return what two names share that a person may take for one another."""
    return unicodedata.normalize("NFKC", username).casefold()


def set_access(db: sqlite3.Connection, user_id: int, role: str, site_ids: Iterable[int] | None) -> None:
    """Give a person a role and sites; who manages people and sites has every one."""
    every = site_ids is None or role in ("admin", "owner")
    db.execute("update users set role = ?, every_site = ? where id = ?", (role, every, user_id))
    db.execute("delete from user_sites where user_id = ?", (user_id,))
    db.executemany("insert into user_sites (user_id, site_id) values (?, ?)", [] if every else [(user_id, each) for each in site_ids])


def check_user(username: str, password: str) -> None:
    """Raise InvalidInput when a new account's name is unfit, or its password too weak to keep anybody out."""
    if not 1 <= len(username) <= 64 or not username.isprintable() or username != username.strip():
        raise InvalidInput.of("username", "must have 1 to 64 visible characters")
    if _look_of(username) == OPERATOR.name or _look_of(username).startswith("token "):
        raise InvalidInput.of("username", "is what the audit trail calls somebody else")
    check_password(password)


def check_password(password: str, name: str = "password") -> None:
    """Raise InvalidInput when a password is too weak to keep anybody out."""
    if not MINIMUM_PASSWORD <= len(password) <= 1024 or any("\ud800" <= character <= "\udfff" for character in password):
        raise InvalidInput.of(name, f"must have {MINIMUM_PASSWORD} to 1024 characters")


def read_sites(db: sqlite3.Connection, settings: Settings, domains: Any) -> list[int] | None:
    """Return the ids of sites named by their domains; None, every site, stays None. Raises InvalidInput."""
    if domains is None:
        return None
    if not isinstance(domains, list) or not all(isinstance(each, str) for each in domains) or not domains:
        raise InvalidInput.of("sites", "must be a list of domains, or null for every site")
    found = {domain: find_site(db, settings, domain) for domain in domains}
    if unknown := [domain for domain, site in found.items() if site is None]:
        raise InvalidInput.of("sites", f"there is no site {unknown[0]!r} here")
    return sorted({site.id for site in found.values()})


def open_session(db: sqlite3.Connection, now: int, user_id: int, device: str) -> str:
    """Return the secret of a new session of a person."""
    secret = secrets.token_urlsafe(32)
    db.execute("insert into sessions (token_hash, user_id, device, created_at, seen_at, expires_at) values (?, ?, ?, ?, ?, ?)",
               (secret_hash(secret), user_id, device, now, now, now + SESSION_SECONDS))
    return secret


def close_session(db: sqlite3.Connection, secret: str) -> None:
    """End a session."""
    db.execute("delete from sessions where token_hash = ?", (secret_hash(secret),))


def delete_over(db: sqlite3.Connection, now: int) -> None:
    """Delete sessions and invitations that are over."""
    db.execute("delete from sessions where expires_at <= ? or seen_at <= ?", (now, now - SESSION_IDLE))
    db.execute("delete from invites where expires_at <= ?", (now,))


def touch(db: sqlite3.Connection, items: Sequence[tuple[str, int, int]]) -> list[None]:
    """Note when sessions and tokens were last used: [("session" | "token", id, second), …]."""
    for kind, each, second in items:
        if kind == "session":
            db.execute("update sessions set seen_at = max(seen_at, ?) where id = ?", (second, each))
        else:
            db.execute("update tokens set used_at = ? where id = ?", (second, each))
    return [None] * len(items)


def session_principal(db: sqlite3.Connection, now: int, secret: str) -> tuple[Principal, int] | None:
    """Return (who a session's secret belongs to, when they were last seen), or None where there is no such session."""
    row = db.execute("select id from sessions where token_hash = ?", (secret_hash(secret),)).fetchone()
    return _principal_of_session(db, now, row[0]) if row else None


def _principal_of_session(db: sqlite3.Connection, now: int, session_id: int) -> tuple[Principal, int] | None:
    row = db.execute("""
        select u.username, u.role, u.every_site, u.id, s.seen_at from sessions s join users u on u.id = s.user_id
        where s.id = ? and s.expires_at > ? and s.seen_at > ?""", (session_id, now, now - SESSION_IDLE)).fetchone()
    if row is None:
        return None
    name, role, every, user_id, seen_at = row
    return Principal(name, "person", role, None if every else _sites_of_user(db, user_id), user_id, session_id), seen_at


def _sites_of_user(db: sqlite3.Connection, user_id: int) -> frozenset[int]:
    return frozenset(site_id for site_id, in db.execute("select site_id from user_sites where user_id = ?", (user_id,)))


def token_principal(db: sqlite3.Connection, now: int, secret: str) -> tuple[Principal, int] | None:
    """Return (what a token stands for, when it was last used), or None.

    A token may no more than whoever made it may now; one that writes may what an admin may of sites, but nothing of people.
    """
    row = db.execute("select id from tokens where token_hash = ?", (secret_hash(secret),)).fetchone()
    return _principal_of_token(db, now, row[0]) if row else None


def _principal_of_token(db: sqlite3.Connection, now: int, token_id: int) -> tuple[Principal, int] | None:
    row = db.execute("""
        select t.name, t.every_site, t.read_only, coalesce(t.used_at, 0), u.id, coalesce(u.role, 'owner'), coalesce(u.every_site, 1)
        from tokens t left join users u on u.id = t.user_id
        where t.id = ? and coalesce(t.expires_at > ?, 1)""", (token_id, now)).fetchone()
    if row is None:
        return None
    name, every, read_only, used_at, user_id, role, user_every = row
    site_ids = None if every else frozenset(each for each, in db.execute("select site_id from token_sites where token_id = ?", (token_id,)))
    if not user_every:
        theirs = _sites_of_user(db, user_id)
        site_ids = theirs if site_ids is None else site_ids & theirs
    role = "viewer" if read_only else min(role, "admin", key=ROLES.index)
    return Principal(name, "token", role, site_ids, token_id), used_at


def renew(db: sqlite3.Connection, now: float, by: Principal) -> Principal:
    """Return what somebody may at this moment of the transaction, in which they change what others may or is to last.

    Their guard looked before: meanwhile they may have been demoted, removed or signed out. Raises Unauthorized.
    """
    if by.kind == "operator":
        return by
    found = _principal_of_session(db, int(now), by.session_id) if by.kind == "person" else _principal_of_token(db, int(now), by.id)
    if found is None:
        raise Unauthorized("This session or token has just ended. Sign in again.")
    return found[0]


def create_token(db: sqlite3.Connection, now: int, by: Principal, name: str, site_ids: Sequence[int] | None, read_only: bool,
                 expires_in_days: int | None = None) -> tuple[int, str]:
    """Return (the id of a new token, its secret, to be shown once); only the hash is kept. Raises InvalidInput and Forbidden."""
    if not name.strip() or not name.isprintable() or len(name) > 100:
        raise InvalidInput.of("name", "must have 1 to 100 visible characters")
    if not read_only:
        by.require("editor")
    secret = secrets.token_urlsafe(32)
    token_id = db.execute(
        "insert into tokens (name, token_hash, user_id, every_site, read_only, created_at, expires_at) values (?, ?, ?, ?, ?, ?, ?)",
        (name, secret_hash(secret), by.id or None, site_ids is None, read_only, now, expires_in_days and now + expires_in_days * 86_400)).lastrowid
    db.executemany("insert into token_sites (token_id, site_id) values (?, ?)", [(token_id, each) for each in site_ids or ()])
    note(db, now, by, "token created", name, "may only read" if read_only else "may read and write")
    return token_id, secret


@dataclass(frozen=True)
class Caller:
    """Where somebody signs in from. Held in memory only: of it, the device's name alone is stored."""

    address: str = field(default="", repr=False)
    device: str = "a program"
    mark: str = field(default="", repr=False)


def new_mark(password_hash: str) -> str:
    """Return a mark for a browser that has signed in. It ends when the password changes, and nothing needs to be stored of it."""
    name = secrets.token_hex(8)
    return f"{name}.{_mark(password_hash, name)}"


def _mark(password_hash: str, name: str) -> str:
    return hmac.digest(password_hash.encode(), name.encode(), "sha256").hex()


def is_marked(password_hash: str, mark: str) -> bool:
    """Return whether a mark was made for the account with this password hash."""
    name, _, proof = mark.partition(".")
    return hmac.compare_digest(_mark(password_hash, name).encode(), proof.encode("utf-8", "surrogatepass"))


class Accounts:
    """Who may come in, and what they may. Each change is noted in the audit trail, in its own transaction."""

    def __init__(self, settings: CurrentSettings, store: Store, clock: Clock):
        self._settings, self._store, self._clock = settings, store, clock
        self._attempts = Attempts(clock)
        self.setup_code = None if has_users(store.reader()) else secrets.token_urlsafe(16)
        # A password check takes 16 MB and a third of a second, by design: few at once, few waiting, so that hits find threads.
        # On threads of its own, because an allocator keeps for each thread what that once needed: 16 MB for every one that serves.
        # Browsers that were here before have a door of their own, before which no crowd of strangers can stand.
        self._doors = {known: (ThreadPoolExecutor(most, "mininumbers-password"), threading.Semaphore(3 * most))
                       for known, most in ((False, 2), (True, 1))}

    @property
    def _now(self) -> int:
        return int(self._clock())

    def close(self) -> None:
        """Stop the threads that check passwords."""
        for hashing, _ in self._doors.values():
            hashing.shutdown()

    def _transact(self, by: Principal, function: Callable[[sqlite3.Connection, Principal], Any]) -> Any:
        """Run `function(connection, who asks as they are then)` in a transaction."""
        return self._store.transact(lambda db: function(db, renew(db, self._now, by)))

    # First run

    def check_setup_code(self, code: str) -> None:
        """Raise Forbidden unless `code` is that of the link which was printed at the start, and nobody has an account yet."""
        if has_users(self._store.reader()):
            raise Forbidden("Mini Numbers is set up already. Sign in instead, or ask who runs it for an invitation.")
        if not self.setup_code or not hmac.compare_digest(code.encode("utf-8", "surrogatepass"), self.setup_code.encode()):
            raise Forbidden("This link is not valid, or of an earlier start. Open the one that Mini Numbers printed in the terminal when it "
                            "started last.")

    def setup(self, by: Principal, username: str, password: str, domain: str | None = None, timezone: str = "UTC",
              only_first: bool = False, **site: Any) -> None:
        """Create an owner, and a site unless `domain` is None. Raises InvalidInput, and then nothing was created.

        `only_first` refuses where there is an account already; `site` are further settings of the site.
        """
        check_user(username, password)
        if domain is not None:
            check_site_values({"domain": domain, "timezone": timezone, **site})
        password_hash = hash_password(password)
        by = Principal(username) if only_first else by

        def create(db: sqlite3.Connection) -> None:
            if only_first and has_users(db):
                raise Forbidden("Somebody else has set Mini Numbers up just now. Sign in instead, or ask them for an invitation.")
            add_user(db, self._now, username, password_hash)
            note(db, self._now, by, "person added", username, "owner")
            if domain is not None:
                add_site(db, self._now, domain=domain, timezone=timezone, **site)
                note(db, self._now, by, "site added", host_of(domain))
        self._store.transact(create)
        self.setup_code = None

    # Signing in

    def sign_in(self, username: str, password: str, code: str, caller: Caller) -> tuple[str, str]:
        """Return (the secret of a new session, a mark for the browser). Raises Unauthorized, SecondFactorNeeded and TooMany."""
        user, _ = self.prove(username, password, code, caller)
        return self.enter(user, caller), new_mark(user.password_hash)

    def enter(self, user: User, caller: Caller) -> str:
        """Return the secret of a new session of a person, who was proven just now. Raises Unauthorized where that holds no more."""
        def enter(db: sqlite3.Connection) -> str:
            now = find_user(db, user.username)
            if now is None or (now.id, now.password_hash, now.totp_secret) != (user.id, user.password_hash, user.totp_secret):
                raise Unauthorized("This account was changed just now. Sign in again.")
            return open_session(db, self._now, user.id, caller.device)
        return self._store.transact(enter)

    def prove(self, username: str, password: str, code: str | None, caller: Caller) -> tuple[User, bytes]:
        """Return (the person these are right for, the key that their password gives); a code of None is not asked for.

        Raises Unauthorized, SecondFactorNeeded and TooMany. An unknown name takes as long as a wrong password.
        """
        user = find_user(self._store.reader(), username)
        is_known = user is not None and is_marked(user.password_hash, caller.mark)
        attempt = self._attempts.begin(caller.address, username, caller.mark.partition(".")[0] if is_known else "")
        try:
            key = self._hash(is_known, open_password, password, user.password_hash if user else self._nobody())
        except TooMany:
            self._attempts.forgive(attempt)  # it was not even heard
            raise
        if user is None or key is None:
            raise Unauthorized("The name or the password is wrong.")
        if code is not None and user.totp_secret:
            if not code.strip():
                self._attempts.forgive(attempt)
                raise SecondFactorNeeded("Enter the six digits that your authenticator app shows, or a recovery code.")
            self._take_code(user, key, code)
        self._attempts.forgive(attempt)
        return self._renew(user, password, key) if is_outdated(user.password_hash) else (user, key)

    def _hash(self, is_known: bool, function: Callable, *arguments: Any) -> Any:
        hashing, door = self._doors[is_known]
        if not door.acquire(blocking=False):
            raise TooMany("Too many people are signing in just now. Try again in a moment.")
        try:
            return hashing.submit(function, *arguments).result()
        finally:
            door.release()

    def _nobody(self) -> str:
        """Return what an unknown name is held against: a hash of no password, of the same cost as that of a known name."""
        row = self._store.reader().execute("select password_hash from users order by id limit 1").fetchone()
        cost = row[0].split("$")[1:4] if row else map(str, SCRYPT.values())
        return "$".join(["scrypt", *cost, secrets.token_hex(16), secrets.token_hex(64)])

    def _take_code(self, user: User, key: bytes, code: str) -> None:
        """Use up a code of the second factor. Raises SecondFactorNeeded."""
        bare = re.sub(r"[\s-]", "", code).lower()
        step = totp_step(unseal_secret(key, user.totp_secret), bare, self._clock()) if re.fullmatch(r"[0-9]{6}", bare) else None

        def use(db: sqlite3.Connection) -> bool:
            if step is None:
                return db.execute("delete from recovery_codes where code_hash = ? and user_id = ?", (secret_hash(bare), user.id)).rowcount == 1
            return db.execute("update users set totp_step = ? where id = ? and totp_step < ?", (step, user.id, step)).rowcount == 1
        if not self._store.transact(use):
            raise SecondFactorNeeded("This recovery code is wrong or was used before." if step is None else
                                     "This code was used before. Wait for the next one.")

    def _renew(self, user: User, password: str, key: bytes) -> tuple[User, bytes]:
        """Hash a password, just proven, with today's parameters; return (the person as they are now, their new key)."""
        return self._store_password(user, password, key, lambda db: None)

    def _store_password(self, user: User, password: str, key: bytes | None, also: Callable[[sqlite3.Connection], Any]) -> tuple[User, bytes]:
        """Store a password, and the second factor's secret under its key; without the old key there is none any more."""
        stored = self._hash(True, hash_password, password)
        new_key = self._hash(True, open_password, password, stored)
        sealed = seal_secret(new_key, unseal_secret(key, user.totp_secret)) if key and user.totp_secret else None

        def store(db: sqlite3.Connection) -> None:
            if get_user(db, user.id)[:5] != user[:5]:
                raise Conflict("This account was changed somewhere else just now. Try again.")
            db.execute("update users set password_hash = ?, totp_secret = ? where id = ?", (stored, sealed, user.id))
            also(db)
        self._store.transact(store)
        return user._replace(password_hash=stored, totp_secret=sealed), new_key

    def sign_out(self, secret: str) -> None:
        """End a session."""
        self._store.transact(lambda db: close_session(db, secret))

    def sign_out_everywhere(self, by: Principal) -> None:
        """End all sessions of a person."""
        def end(db: sqlite3.Connection, by: Principal) -> None:
            db.execute("delete from sessions where user_id = ?", (by.id,))
            note(db, self._now, by, "signed out everywhere", by.name)
        self._transact(by, end)

    def by_session(self, secret: str) -> Principal | None:
        """Return who a session belongs to, and note that it is in use."""
        return self._seen("session", session_principal(self._store.reader(), self._now, secret))

    def by_token(self, secret: str) -> Principal | None:
        """Return what a token stands for, and note that it is in use."""
        return self._seen("token", token_principal(self._store.reader(), self._now, secret))

    def _seen(self, kind: str, found: tuple[Principal, int] | None) -> Principal | None:
        if found is None:
            return None
        principal, seen_at = found
        if self._now - seen_at >= SEEN_SECONDS:
            with contextlib.suppress(Busy):  # noted next time
                self._store.submit(touch, (kind, principal.session_id or principal.id, self._now))
        return principal

    # One's own account

    def account(self, by: Principal) -> dict:
        """Return what a person may know of their account, the newest session first."""
        db = self._store.reader()
        user = get_user(db, by.id)
        codes, = db.execute("select count(*) from recovery_codes where user_id = ?", (by.id,)).fetchone()
        rows = db.execute("""
            select id, device, created_at, seen_at, min(expires_at, seen_at + ?) from sessions where user_id = ? and expires_at > ? and seen_at > ?
            order by seen_at desc, id desc""", (SESSION_IDLE, by.id, self._now, self._now - SESSION_IDLE))
        names = ("id", "device", "created_at", "seen_at", "expires_at")
        return {"username": user.username, "role": user.role, "two_factor": user.totp_secret is not None, "recovery_codes": codes,
                "sessions": [{**dict(zip(names, row)), "is_current": row[0] == by.session_id} for row in rows]}

    def change_password(self, by: Principal, password: str, new: str, caller: Caller) -> str:
        """Change one's password; return a new mark for the browser. Raises Unauthorized, InvalidInput.

        One's other sessions and open invitations end, as they may be somebody else's work.
        """
        check_password(new, "new_password")
        user, key = self._prove_self(by, password, None, caller)

        def also(db: sqlite3.Connection) -> None:
            renew(db, self._now, by)
            db.execute("delete from sessions where user_id = ? and id <> ?", (by.id, by.session_id))
            withdrawn = db.execute("delete from invites where created_by = ?", (by.id,)).rowcount
            note(db, self._now, by, "password changed", by.name, "open invitations withdrawn" if withdrawn else "")
        return new_mark(self._store_password(user, new, key, also)[0].password_hash)

    def _prove_self(self, by: Principal, password: str, code: str | None, caller: Caller) -> tuple[User, bytes]:
        """Ask for the password again, of somebody who is signed in: what is wrong is the field, not the session."""
        try:
            return self.prove(by.name, password, code, caller)
        except SecondFactorNeeded as error:
            raise InvalidInput(str(error), error.details) from error
        except Unauthorized as error:
            raise InvalidInput.of("password", "is wrong") from error

    def reset_password(self, username: str, password: str) -> bool:
        """Give somebody who is locked out a new password, from the command line; return whether that ended their second factor.

        Their sessions and open invitations end too. The second factor's secret can be read with the old password only.
        """
        check_password(password)
        user = named_user(self._store.reader(), username)

        def also(db: sqlite3.Connection) -> None:
            db.execute("delete from sessions where user_id = ?", (user.id,))
            db.execute("delete from recovery_codes where user_id = ?", (user.id,))
            db.execute("delete from invites where created_by = ?", (user.id,))
            note(db, self._now, OPERATOR, "password reset", username, "two-factor sign-in switched off" if user.totp_secret else "")
        self._store_password(user, password, None, also)
        return user.totp_secret is not None

    def end_session(self, by: Principal, session_id: int) -> None:
        """End one of one's own sessions. Raises NotFound."""
        def end(db: sqlite3.Connection) -> None:
            if not db.execute("delete from sessions where id = ? and user_id = ?", (session_id, by.id)).rowcount:
                raise NotFound("There is no such session; perhaps it has ended.")
        self._store.transact(end)

    def begin_two_factor(self, by: Principal, password: str, caller: Caller) -> dict:
        """Return a new secret for an authenticator app. Nothing is stored before a code has shown that the app has it."""
        user, _ = self._prove_self(by, password, None, caller)
        _check_no_second_factor(user)
        secret = base64.b32encode(secrets.token_bytes(20)).decode()
        return {"secret": secret, "uri": totp_uri(by.name, secret)}

    def confirm_two_factor(self, by: Principal, password: str, secret: str, code: str, caller: Caller) -> list[str]:
        """Ask for a code at every sign-in from now on; return the recovery codes, to be shown once. Raises InvalidInput."""
        user, key = self._prove_self(by, password, None, caller)
        try:
            raw = base64.b32decode(re.sub(r"[\s-]", "", secret).upper())
        except ValueError:
            raw = b""
        if len(raw) != 20:
            raise InvalidInput.of("secret", "is not the one that was made; begin again")
        try:
            step = totp_step(raw, re.sub(r"[\s-]", "", code), self._clock())
        except SecondFactorNeeded as error:
            raise InvalidInput(str(error), error.details) from error

        def store(db: sqlite3.Connection, by: Principal) -> list[str]:
            _check_no_second_factor(now := get_user(db, by.id))
            if now.password_hash != user.password_hash:
                raise Conflict("The password was changed just now. Begin again.")
            db.execute("update users set totp_secret = ?, totp_step = ? where id = ?", (seal_secret(key, raw), step, by.id))
            note(db, self._now, by, "two-factor sign-in switched on", by.name)
            return new_recovery_codes(db, by.id)
        return self._transact(by, store)

    def end_two_factor(self, by: Principal, password: str, code: str, caller: Caller) -> None:
        """Sign in by password alone again."""
        self._prove_self(by, password, code, caller)

        def end(db: sqlite3.Connection, by: Principal) -> None:
            db.execute("update users set totp_secret = null where id = ?", (by.id,))
            db.execute("delete from recovery_codes where user_id = ?", (by.id,))
            note(db, self._now, by, "two-factor sign-in switched off", by.name)
        self._transact(by, end)

    def renew_recovery_codes(self, by: Principal, password: str, code: str, caller: Caller) -> list[str]:
        """Return new recovery codes, to be shown once, in place of the old ones. Raises Conflict where there is no second factor."""
        user, _ = self._prove_self(by, password, code, caller)
        if user.totp_secret is None:
            raise Conflict("Two-factor sign-in is not switched on.")

        def replace(db: sqlite3.Connection, by: Principal) -> list[str]:
            note(db, self._now, by, "recovery codes renewed", by.name)
            return new_recovery_codes(db, by.id)
        return self._transact(by, replace)

    # People and invitations

    def people(self, by: Principal) -> dict:
        """Return everybody who has an account, and the invitations that are open."""
        db = self._store.reader()
        rows = db.execute("""
            select u.id, u.username, u.role, u.every_site, u.totp_secret is not null, u.created_at, (select max(seen_at) from sessions where user_id = u.id)
            from users u order by u.username""")
        users = [{"id": user_id, "username": username, "role": role, "two_factor": bool(two_factor), "created_at": created_at, "seen_at": seen_at,
                  "is_self": user_id == by.id,
                  "sites": None if every else _domains(db, "select site_id from user_sites where user_id = ?", user_id)}
                 for user_id, username, role, every, two_factor, created_at, seen_at in rows]
        return {"users": users, "invites": self._invites(db)}

    def _invites(self, db: sqlite3.Connection) -> list[dict]:
        rows = db.execute("""
            select i.id, i.role, i.every_site, u.username, i.created_at, i.expires_at from invites i join users u on u.id = i.created_by
            where i.expires_at > ? order by i.id desc""", (self._now,))
        return [{"id": invite_id, "role": role, "created_by": name, "created_at": created_at, "expires_at": expires_at,
                 "sites": None if every else _domains(db, "select site_id from invite_sites where invite_id = ?", invite_id)}
                for invite_id, role, every, name, created_at, expires_at in rows]

    def add_user(self, by: Principal, username: str, password: str, role: str, domains: list[str] | None) -> None:
        """Add an account. Raises InvalidInput."""
        check_user(username, password)
        password_hash, settings = hash_password(password), self._settings()

        def add(db: sqlite3.Connection, by: Principal) -> None:
            _check_grant(by, role)
            add_user(db, self._now, username, password_hash, role, read_sites(db, settings, domains))
            note(db, self._now, by, "person added", username, role)
        self._transact(by, add)

    def set_user(self, by: Principal, user_id: int, role: str | None, domains: list[str] | None | types.EllipsisType) -> None:
        """Change somebody's role or sites; a role of None and sites of ... stay. Raises Forbidden, Conflict, NotFound."""
        settings = self._settings()

        def change(db: sqlite3.Connection, by: Principal) -> None:
            user = get_user(db, user_id)
            _check_grant(by, user.role, role)
            if role not in (None, "owner"):
                _check_owner_stays(db, user)
            before = _access(db, user_id)
            every, = db.execute("select every_site from users where id = ?", (user_id,)).fetchone()
            site_ids = (None if every else _sites_of_user(db, user_id)) if domains is ... else read_sites(db, settings, domains)
            set_access(db, user_id, role or user.role, site_ids)
            note(db, self._now, by, "access changed", user.username, differences(before, _access(db, user_id)))
        self._transact(by, change)

    def remove_user(self, by: Principal, user_id: int) -> None:
        """Remove somebody with their sessions, invitations and tokens. Raises Forbidden, Conflict, NotFound."""
        def remove(db: sqlite3.Connection, by: Principal) -> None:
            user = get_user(db, user_id)
            _check_grant(by, user.role)
            _check_owner_stays(db, user)
            db.execute("delete from users where id = ?", (user_id,))
            note(db, self._now, by, "person removed", user.username, user.role)
        self._transact(by, remove)

    def invite(self, by: Principal, role: str, domains: list[str] | None) -> dict:
        """Return a new invitation with its code, to be shown once. Raises InvalidInput and Forbidden."""
        code, settings, now = secrets.token_urlsafe(24), self._settings(), self._now

        def add(db: sqlite3.Connection, by: Principal) -> dict:
            _check_grant(by, role)
            site_ids = None if role in ("admin", "owner") else read_sites(db, settings, domains)
            invite_id = db.execute(
                "insert into invites (code_hash, role, every_site, created_by, created_at, expires_at) values (?, ?, ?, ?, ?, ?)",
                (secret_hash(code), role, site_ids is None, by.id, now, now + INVITE_SECONDS)).lastrowid
            db.executemany("insert into invite_sites (invite_id, site_id) values (?, ?)", [(invite_id, each) for each in site_ids or ()])
            note(db, now, by, "invitation made", f"for {_a(role)}")
            return {"id": invite_id, "code": code, "expires_at": now + INVITE_SECONDS}
        return self._transact(by, add)

    def withdraw_invite(self, by: Principal, invite_id: int) -> None:
        """Make an invitation worth nothing. Raises NotFound."""
        def withdraw(db: sqlite3.Connection, by: Principal) -> None:
            row = db.execute("select role from invites where id = ?", (invite_id,)).fetchone()
            if row is None:
                raise NotFound("There is no such invitation; perhaps it was used or withdrawn.")
            _check_grant(by, row[0])
            db.execute("delete from invites where id = ?", (invite_id,))
            note(db, self._now, by, "invitation withdrawn", f"for {_a(row[0])}")
        self._transact(by, withdraw)

    def find_invite(self, db: sqlite3.Connection, code: str) -> tuple[dict, int]:
        """Return (what an invitation grants, its id). Raises Forbidden where it is none, or who made it may not invite any more."""
        row = db.execute("""
            select i.id, i.role, i.every_site, u.username, u.role from invites i join users u on u.id = i.created_by
            where i.code_hash = ? and i.expires_at > ?""", (secret_hash(code), self._now)).fetchone()
        if row is None or not Principal(row[3], role=row[4]).may(max("admin", row[1], key=ROLES.index)):
            raise Forbidden("This invitation is not valid: it was used, withdrawn, or is over. Ask who sent it for a new one.")
        invite_id, role, every, name, _ = row
        sites = None if every else _domains(db, "select site_id from invite_sites where invite_id = ?", invite_id)
        return {"role": role, "sites": sites, "invited_by": name}, invite_id

    def check_invite(self, code: str) -> dict:
        """Return what an invitation grants. Raises Forbidden."""
        return self.find_invite(self._store.reader(), code)[0]

    def accept_invite(self, code: str, username: str, password: str, caller: Caller) -> tuple[str, str]:
        """Add the account that an invitation is for; return (the secret of its session, a mark). Raises Forbidden and InvalidInput."""
        check_user(username, password)
        self.check_invite(code)  # before the work of hashing is done for somebody who has none
        password_hash = self._hash(False, hash_password, password)

        def accept(db: sqlite3.Connection) -> str:
            granted, invite_id = self.find_invite(db, code)
            site_ids = None if granted["sites"] is None else [each for each, in db.execute(
                "select site_id from invite_sites where invite_id = ?", (invite_id,))]
            user_id = add_user(db, self._now, username, password_hash, granted["role"], site_ids)
            db.execute("delete from invites where id = ?", (invite_id,))
            note(db, self._now, Principal(username), "invitation accepted", username, f"{granted['role']}, invited by {granted['invited_by']}")
            return open_session(db, self._now, user_id, caller.device)
        return self._store.transact(accept), new_mark(password_hash)

    # Tokens

    def tokens(self, by: Principal) -> list[dict]:
        """Return one's own tokens, and to who manages people everybody's; the newest first."""
        db = self._store.reader()
        rows = db.execute("""
            select t.id, t.name, t.every_site, t.read_only, u.username, t.created_at, t.expires_at, t.used_at
            from tokens t left join users u on u.id = t.user_id where t.user_id = ? or ? order by t.id desc""", (by.id, by.may("admin")))
        names = ("username", "created_at", "expires_at", "used_at")
        return [{"id": token_id, "name": name, "read_only": bool(read_only), **dict(zip(names, rest)),
                 "sites": None if every else _domains(db, "select site_id from token_sites where token_id = ?", token_id)}
                for token_id, name, every, read_only, *rest in rows]

    def create_token(self, by: Principal, name: str, domains: list[str] | None, read_only: bool, expires_in_days: int | None = None) -> tuple[int, str]:
        """Return (the id of a new token, its secret, to be shown once). Raises InvalidInput, Forbidden."""
        settings = self._settings()

        def create(db: sqlite3.Connection, by: Principal) -> tuple[int, str]:
            site_ids = read_sites(db, settings, domains)
            if by.site_ids is not None and not by.site_ids.issuperset(site_ids or ()):
                raise InvalidInput.of("sites", "must be among those that you may see")
            return create_token(db, self._now, by, name, site_ids, read_only, expires_in_days)
        return self._transact(by, create)

    def revoke_token(self, by: Principal, token_id: int) -> None:
        """Make a token worth nothing: one's own, or as who manages people anybody's. Raises NotFound."""
        def revoke(db: sqlite3.Connection, by: Principal) -> None:
            row = db.execute("select name from tokens where id = ? and (user_id = ? or ?)", (token_id, by.id, by.may("admin"))).fetchone()
            if row is None:
                raise NotFound("There is no such token; perhaps it was revoked.")
            db.execute("delete from tokens where id = ?", (token_id,))
            note(db, self._now, by, "token revoked", row[0])
        self._transact(by, revoke)


def _check_no_second_factor(user: User) -> None:
    """Raise Conflict where there is one: it goes by a code only, and not by being replaced."""
    if user.totp_secret is not None:
        raise Conflict("Two-factor sign-in is switched on already. Switch it off first.")


def _a(role: str) -> str:
    return f"an {role}" if role[0] in "aeio" else f"a {role}"


def _domains(db: sqlite3.Connection, site_ids: str, owner_id: int) -> list[str]:
    """Return the domains of the sites that a query of site ids finds for the row it belongs to."""
    return [domain for domain, in db.execute(f"select domain from sites where id in ({site_ids}) order by domain", (owner_id,))]


def _access(db: sqlite3.Connection, user_id: int) -> dict:
    """Return somebody's role and sites, as the audit trail tells them."""
    role, every = db.execute("select role, every_site from users where id = ?", (user_id,)).fetchone()
    return {"role": role, "sites": "every" if every else _domains(db, "select site_id from user_sites where user_id = ?", user_id)}


def _check_grant(by: Principal, *roles: str | None) -> None:
    """Raise unless `by` may give and take these roles: only owners make owners, or touch them."""
    for role in filter(None, roles):
        if role not in ROLES:
            raise InvalidInput.of("role", f"must be one of {', '.join(ROLES)}")
        by.require(max("admin", role, key=ROLES.index))


def _check_owner_stays(db: sqlite3.Connection, user: User) -> None:
    owners, = db.execute("select count(*) from users where role = 'owner'").fetchone()
    if user.role == "owner" and owners == 1:
        raise Conflict(f"{user.username} is the last owner, and somebody must be. Make somebody else an owner first.")


# ---- ingest ----------------------------------------------------------------------------------------------------------
# A request thread reads and judges an event; the writer's thread decides which visit it belongs to. Nothing of the address and
# the user agent goes further than the Hit in memory.

BODY_LIMIT = 65_536  # bytes; thirty properties of the longest kind fit
URL_LIMIT = 8_192
PAGE_LIMIT = 2_000
NAME_LIMIT = 120
PROPS_LIMIT, PROP_KEY_LIMIT, PROP_VALUE_LIMIT = 30, 300, 2_000
ENGAGED_LIMIT = 7 * 86_400_000  # ms in one message
PAGEVIEW, OTHER = 1, 2  # ids of texts that schema.sql puts in place
ENGAGEMENT = "engagement"

# Why a hit was not counted: the word in X-MiniNumbers-Dropped, and what it says to a person.
DROP_REASONS = {
    "unknown-site": "no site of that domain is set up here",
    "hostname": "the page is on a host that the site does not allow",
    "bot": "the user agent is that of a program",
    "spam": "the referrer is known to send fake visits",
    "gpc": "the visitor asked not to be tracked, and the site is set to drop such visits",
    "no-visit": "engagement was told for a visit that is over or unknown",
    "limit": "more came from one address or for one site than a minute may bring; whoever sent it was told to try again",
}

# ISO 4217: codes in use, and the few whose minor unit is not a hundredth.
CURRENCIES = frozenset("""
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLF CLP CNY COP CRC
CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD
JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO
NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS
TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU UYW UZS VED VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWG
""".split())
MINOR_DIGITS = {**dict.fromkeys("BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF".split(), 0),
                **dict.fromkeys("BHD IQD JOD KWD LYD OMR TND".split(), 3), "CLF": 4, "UYW": 4}


class Form:
    """Reads the fields of a JSON object and collects every mistake, so that one answer names them all.

    A field may be known by several names; the first that is present and not null counts.
    """

    def __init__(self, body: Any):
        if not isinstance(body, dict):
            raise InvalidInput("The body must be a JSON object.")
        self._body = body
        self._mistakes: list[dict] = []

    def raw(self, *names: str) -> tuple[str, Any]:
        """Return (the name it came by, the value); (the last name, None) where there is none."""
        for name in names:
            if (value := self._body.get(name)) is not None:
                return name, value
        return names[-1], None

    def fail(self, name: str, message: str) -> None:
        """Note a mistake."""
        self._mistakes.append({"field": name, "message": message})

    def text(self, *names: str, most: int, required: bool = False) -> str:
        """Return a text of at most `most` characters, "" where there is none."""
        name, value = self.raw(*names)
        if value is None or value == "":
            if required:
                self.fail(name, "is required")
        elif not isinstance(value, str):
            self.fail(name, "must be text")
        elif len(value) > most:
            self.fail(name, f"must have at most {most} characters")
        elif not value.isprintable() and any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
            self.fail(name, "must not have control characters")
        else:
            return value
        return ""

    def whole(self, name: str, least: int, most: int) -> int | None:
        """Return a whole number, None where there is none."""
        if isinstance(value := self._body.get(name), float) and not value.is_integer():
            self.fail(name, f"must be a whole number from {least} to {most}")
            return None
        return self.integer(name, least=least, most=most)

    def integer(self, *names: str, least: int, most: int) -> int | None:
        """Return a whole number, None where there is none; a fraction is cut off, as clocks in browsers have one."""
        name, value = self.raw(*names)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            self.fail(name, f"must be a number from {least} to {most}")
            return None
        return int(value)

    def flag(self, *names: str) -> bool | None:
        """Return a truth value, None where there is none; 0 and 1 are as good."""
        name, value = self.raw(*names)
        if value is None or value in (True, False):
            return None if value is None else bool(value)
        self.fail(name, "must be true or false")
        return None

    def check(self) -> None:
        """Raise InvalidInput when any mistake was noted."""
        if self._mistakes:
            raise InvalidInput.of_all(self._mistakes)


@dataclass(frozen=True)
class Event:
    """What a body says, checked but not yet judged."""

    name: str
    domains: tuple[str, ...]
    page: str
    hostname: str
    query: str = field(repr=False)
    referrer: str = field(repr=False)
    props: tuple[tuple[str, str], ...]
    revenue: tuple[int, str] | None
    interactive: bool
    scroll: int | None
    engaged: int
    width: int | None


def read_event(body: Any) -> Event:
    """Return the Event of a body in Plausible's events format. Raises InvalidInput naming every field that is wrong.

    Source: https://plausible.io/docs/events-api
    """
    form = Form(body)
    name = form.text("n", "name", most=NAME_LIMIT, required=True)
    domain = form.text("d", "domain", most=1000, required=True)
    url, hostname = _read_url(form)
    page = page_of(url, bool(form.flag("h", "hash")))
    if len(page) > PAGE_LIMIT:
        form.fail("url", f"must have a path of at most {PAGE_LIMIT} characters")
    event = Event(
        name=name, domains=tuple(dict.fromkeys(host_of(part) or part.strip() for part in domain.split(",") if part.strip())), page=page,
        hostname=hostname, query=url.query,
        referrer=form.text("r", "referrer", most=URL_LIMIT), props=_read_props(form), revenue=_read_revenue(form),
        interactive=form.flag("i", "interactive") is not False, scroll=form.integer("sd", least=0, most=100),
        engaged=form.integer("e", least=0, most=ENGAGED_LIMIT) or 0, width=form.integer("w", "screen_width", least=0, most=1_000_000))
    if domain and not 1 <= len(event.domains) <= 10:
        form.fail("domain", "must name 1 to 10 sites")
    form.check()
    return event


def _read_url(form: Form) -> tuple[SplitResult, str]:
    """Return (the parts of the page's URL, its host)."""
    text = form.text("u", "url", most=URL_LIMIT, required=True)
    parts = split_url(text)
    host = host_of(parts.hostname) if parts else ""
    if text and (not host or parts.scheme == "data"):
        form.fail(form.raw("u", "url")[0], "must be an absolute URL such as https://example.com/page")
    return parts or urlsplit(""), host


def page_of(url: SplitResult, hash_mode: bool) -> str:
    """Return the page of a URL: its path, and in hash mode its fragment; never a query."""
    page = unquote(url.path, errors="replace") or "/"
    if hash_mode and url.fragment:
        page += "#" + unquote(url.fragment.partition("?")[0], errors="replace")
    return clean(page)


def _read_props(form: Form) -> tuple[tuple[str, str], ...]:
    name, value = form.raw("p", "props", "m", "meta")
    if isinstance(value, str):
        try:
            value = load_json(value.encode("utf-8", "surrogatepass")) if value else None
        except InvalidInput:
            form.fail(name, "must be an object, or one written as JSON")
            return ()
    if value is None:
        return ()
    if not isinstance(value, dict):
        form.fail(name, "must be an object")
        return ()
    if len(value) > PROPS_LIMIT:
        form.fail(name, f"must have at most {PROPS_LIMIT} properties")
    return tuple((key, text) for key, each in value.items() if (text := _read_prop(form, name, key, each)))


def _read_prop(form: Form, name: str, key: str, value: Any) -> str:
    """Return a property's value as text; "" leaves it out, as null and empty text do."""
    if not 1 <= len(key) <= PROP_KEY_LIMIT or not key.isprintable():
        form.fail(name, f"property names must have 1 to {PROP_KEY_LIMIT} visible characters")
    elif isinstance(value, (dict, list)) or isinstance(value, float) and not math.isfinite(value):
        form.fail(name, f"property {key!r} must be text, a number or true or false")
    elif value is not None:
        text = json.dumps(value) if isinstance(value, (bool, int, float)) else clean(value)
        if len(text) > PROP_VALUE_LIMIT:
            form.fail(name, f"property {key!r} must have at most {PROP_VALUE_LIMIT} characters")
        return _without_query(text)
    return ""


def _without_query(text: str) -> str:
    """Return a property that is a URL or a path without its query, fragment and credentials: what they hold is never stored."""
    if not re.match(r"\s*(?:(?:[a-z][a-z0-9+.-]*:)?//|/|\?)", text, re.IGNORECASE):
        return text
    return re.sub(r"//[^/@]*@", "//", re.split(r"[?#]", text, maxsplit=1)[0])


def _read_revenue(form: Form) -> tuple[int, str] | None:
    """Return (amount in the currency's minor unit, currency)."""
    name, value = form.raw("$", "revenue")
    if value is None or value == "":
        return None
    with contextlib.suppress(InvalidInput):
        value = load_json(value.encode("utf-8", "surrogatepass")) if isinstance(value, str) else value
    if value is None or value == "":  # as JSON within the text
        return None
    currency = value.get("currency") if isinstance(value, dict) else None
    if not isinstance(currency, str) or currency.upper() not in CURRENCIES:
        form.fail(name, "must have an amount and a currency of ISO 4217, as in {\"amount\": 12.5, \"currency\": \"EUR\"}")
        return None
    amount = value.get("amount")
    if isinstance(amount, bool) or not re.fullmatch(r"-?[0-9]{1,13}(\.[0-9]{1,20})?", str(amount), re.ASCII):
        form.fail(name, "amount must be a number such as 12.5 or \"12.50\", below ten trillion")
        return None
    digits = MINOR_DIGITS.get(currency.upper(), 2)
    return int(Decimal(str(amount)).scaleb(digits).to_integral_value()), currency.upper()


@dataclass(frozen=True)
class Sender:
    """Who sent a request, as far as its headers tell. Held in memory only, and kept out of every repr()."""

    address: str = field(repr=False)
    user_agent: str = field(repr=False)
    language: str = ""
    wants_privacy: bool = False  # Sec-GPC or DNT


@dataclass(frozen=True)
class Hit:
    """An event that counts, on its way to the writer."""

    site: Site
    second: int
    sender: Sender = field(repr=False)
    event: Event
    arrival: Callable[[], tuple[Client, Origin]] = field(repr=False)  # asked only of a hit that begins a visit, as most do not

    @property
    def is_engagement(self) -> bool:
        """Whether it only tells more of a pageview that was already counted."""
        return self.event.name == ENGAGEMENT

    @property
    def texts(self) -> Iterator[str]:
        """The texts its own row needs."""
        yield from (self.event.name, self.event.page, self.event.hostname)
        for pair in self.event.props:
            yield from pair


@dataclass(frozen=True)
class Drop:
    """A hit that does not count, on its way to be counted as such."""

    site_id: int
    day: str
    reason: str


def drop_of(site: Site | None, second: int, reason: str) -> Drop:
    """Return the Drop of an event that came for a site, or for none that is known."""
    return Drop(site.id if site else 0, local_date(second, site.zone if site else timezone.utc).isoformat(), reason)


class Texts:
    """Interned text, and the rows of `clients` and `origins` that combine texts. Lives on the writer's thread.

    A flood of made-up paths must not fill the disk: beyond a number of new texts per site and day, what is new becomes (other).
    The tally is in memory; a restart begins it anew.
    """

    CACHE = 20_000  # texts remembered, and combinations of each kind; some 5 MB each …
    CHARACTERS = 2_000_000  # … even where texts are long

    def __init__(self, new_per_day: Callable[[], int]):
        self._new_per_day = new_per_day
        self._ids: dict[str, int] = {}
        self._characters = 0
        self.combinations: dict[str, dict[tuple[int, ...], int]] = {"clients": {}, "origins": {}}  # ids of texts → id of their row
        self._new: dict[int, tuple[int, int]] = {}  # site → (day, how many)

    def forget(self) -> None:
        """Forget the ids, as they may have been rolled back or changed by another process."""
        for known in (self._ids, *self.combinations.values()):
            known.clear()
        self._characters = 0

    def trim(self) -> None:
        """Forget when it has become too much. Only between batches: what a batch has learned it needs to its end."""
        if max(map(len, (self._ids, *self.combinations.values()))) > self.CACHE or self._characters > self.CHARACTERS:
            self.forget()

    def load(self, db: sqlite3.Connection, wanted: Iterable[str]) -> None:
        """Learn the ids of those texts that are already there."""
        if missing := list({text for text in wanted if text not in self._ids}):
            rows = db.execute("select text, id from texts where text in (select value from json_each(?))", (json.dumps(missing),))
            self._ids.update(rows)
            self._characters += sum(map(len, missing))

    def intern(self, db: sqlite3.Connection, wanted: Sequence[tuple[int, int, str]]) -> None:
        """Learn the ids of the texts in [(site id, second, text), …]; those that are new get one, as far as the site may."""
        self.load(db, (text for _, _, text in wanted))
        fresh: dict[str, None] = {}
        for site_id, second, text in wanted:
            if text not in self._ids and text not in fresh and self._may_add(site_id, second // 86_400):
                fresh[text] = None
        self.add(db, fresh)

    def add(self, db: sqlite3.Connection, wanted: Iterable[str]) -> None:
        """Learn the ids of texts, all of which may be added."""
        if unknown := [text for text in dict.fromkeys(wanted) if text not in self._ids]:
            db.execute("insert into texts (text) select value from json_each(?) where true on conflict do nothing", (json.dumps(unknown),))
            self.load(db, unknown)

    def _may_add(self, site_id: int, day: int) -> bool:
        known_day, count = self._new.get(site_id, (day, 0))
        count = count if known_day == day else 0
        if count >= self._new_per_day():
            return False
        self._new[site_id] = (day, count + 1)
        return True

    def id_of(self, text: str) -> int:
        """Return the id of a text that was interned just now."""
        return self._ids.get(text, OTHER)

    def find(self, text: str) -> int | None:
        """Return the id of a text that was loaded just now, or None when there is no such text."""
        return self._ids.get(text)


@dataclass
class Visit:
    """A row of `visits`, while hits are added to it."""

    site_id: int
    id: int
    visitor: int
    client_id: int = 0
    origin_id: int = 0
    entry_page: int = 0
    exit_page: int = 0
    exit_after: int | None = None
    pageviews: int = 0
    interactive: int = 0
    duration: int = 0
    live: int = 1

    @property
    def exit_id(self) -> int:
        """The id of its last pageview, 0 if it has none."""
        return 0 if self.exit_after is None else self.id + self.exit_after

    def goes_on(self, second: int) -> bool:
        """Return whether something that happens now still belongs to this visit, which began later where the clock was set back."""
        since = second - (self.id >> 16)
        return -VISIT_TIMEOUT <= since <= self.duration + VISIT_TIMEOUT

    def touch(self, second: int) -> None:
        """Note a sign of life."""
        self.duration = max(self.duration, second - (self.id >> 16))

    def add(self, hit_id: int, name: int, page: int, interactive: bool) -> None:
        """Note an event."""
        if name == PAGEVIEW:
            self.pageviews += 1
            if hit_id > self.exit_id:  # unless the clock was set back since
                self.exit_after, self.exit_page = hit_id - self.id, page
        else:
            self.interactive = int(self.interactive or interactive)
            if not self.pageviews:
                self.exit_page = page


_VISIT_COLUMNS = tuple(each.name for each in dataclasses.fields(Visit))
_CLIENT_COLUMNS, _ORIGIN_COLUMNS = TEXT_COLUMNS["clients"], TEXT_COLUMNS["origins"]
_visit_row = operator.attrgetter(*_VISIT_COLUMNS)  # dataclasses.astuple() copies deeply, at twenty times the cost
_client_row = operator.attrgetter(*_CLIENT_COLUMNS)
_origin_row = operator.attrgetter(*_ORIGIN_COLUMNS)


def _closed_texts(client: Client, origin: Origin) -> tuple[str, ...]:
    """Return the texts that no visitor can make up: no flood uses them up, so none of them may become (other)."""
    return origin.channel, origin.click_id, client.country, client.region, client.city, client.device, client.screen


def _insert(db: sqlite3.Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence], conflict: str = "") -> None:
    """Insert all rows by one statement.

    CPython's sqlite3 lets go of the interpreter lock at every step; row by row, next to a server's polling loop, that made writing
    many times slower. Reading is the same: what a batch asks for comes as one row wherever it is much.
    """
    if rows := list(rows):
        values = ", ".join(f"json_extract(value, '$[{index}]')" for index in range(len(columns)))
        db.execute(f"insert into {table} ({', '.join(columns)}) select {values} from json_each(?) where true {conflict}", (json.dumps(rows),))


class Batch:
    """The hits of one transaction: finds or begins the visit of each, then writes them all at once."""

    def __init__(self, db: sqlite3.Connection, texts: Texts, salts: Salts, hits: Sequence[Hit]):
        self.db, self.texts, self.salts = db, texts, salts
        texts.trim()
        texts.load(db, (hit.event.page for hit in hits if hit.is_engagement))
        texts.intern(db, [(hit.site.id, hit.second, text) for hit in hits if not hit.is_engagement for text in hit.texts])
        self.visitors = self._visitors(hits)
        self.open = self._open_visits({(hit.site.id, each) for hit, candidates in zip(hits, self.visitors) for each in candidates})
        self.zones = {hit.site.id: hit.site.zone for hit in hits}
        self.changed: dict[tuple[int, int], Visit] = {}
        self.begun: list[tuple[Visit, Hit]] = []
        self.rows: list[tuple[int, Visit, Hit]] = []
        self.pages: dict[tuple[int, int, int], int] = {}  # (site, visit, page) → its newest pageview in this batch
        self.engaged: dict[tuple[int, int], tuple[int, int | None]] = {}
        self.next_ids: dict[tuple[int, int], int] = {}

    def _visitors(self, hits: Sequence[Hit]) -> list[list[int]]:
        """Return for each hit the visitors it may belong to, likeliest first."""
        moments = {(hit.site.id, hit.second): hit.site for hit in hits}
        salts = {(site_id, second): self.salts.usable(self.db, site, second) for (site_id, second), site in moments.items()}
        return [self.salts.candidates(salts[hit.site.id, hit.second], hit.site, hit.sender.address, hit.sender.user_agent) for hit in hits]

    def _open_visits(self, keys: set[tuple[int, int]]) -> dict[tuple[int, int], Visit]:
        found, = self.db.execute(f"""
            select json_group_array(json_array({', '.join('v.' + column for column in _VISIT_COLUMNS)}))
            from json_each(?) j cross join visits v
            where v.live = 1 and v.site_id = json_extract(j.value, '$[0]') and v.visitor = json_extract(j.value, '$[1]')""",
                                 (json.dumps(list(keys)),)).fetchone()
        return {(visit.site_id, visit.visitor): visit for visit in (Visit(*row) for row in json.loads(found))}

    def add(self, hit: Hit, candidates: list[int]) -> str:
        """Add a hit; return "" or the reason why it does not count."""
        visit = self._visit_in_progress(hit, candidates)
        if visit is None and hit.is_engagement:
            return "no-visit"
        if visit and hit.second < visit.id >> 16:  # the clock was set back, yet no hit is older than its visit
            hit = dataclasses.replace(hit, second=visit.id >> 16)
        hit_id = 0 if hit.is_engagement else self._next_id(hit)
        visit = visit or self._begin(hit, hit_id, candidates[0])
        visit.touch(hit.second)
        self.changed[visit.site_id, visit.id] = visit
        if hit.is_engagement:
            self._engage(visit, hit)
        else:
            self._append(visit, hit, hit_id)
        return ""

    def _visit_in_progress(self, hit: Hit, candidates: list[int]) -> Visit | None:
        for visitor in candidates:
            visit = self.open.get((hit.site.id, visitor))
            if visit and visit.goes_on(hit.second):
                if visitor != candidates[0]:
                    self.salts.carried[hit.site.id, candidates[0]] = visitor
                return visit
        return None

    def _next_id(self, hit: Hit) -> int:
        """Return the next free id of the hit's second; a full second, or a clock set back onto it, goes on where it left off."""
        site_id, second = hit.site.id, hit.second
        key = (site_id, second)
        if key not in self.next_ids:
            newest, = self.db.execute("select max(id) from hits where site_id = ? and id >= ? and id < ?",
                                      (site_id, second << 16, (second + 1) << 16)).fetchone()
            self.next_ids[key] = second << 16 if newest is None else newest + 1
        hit_id = self.next_ids[key]
        if hit_id >> 16 != second:
            return self._next_id(dataclasses.replace(hit, second=second + 1))
        self.next_ids[key] += 1
        return hit_id

    def _begin(self, hit: Hit, hit_id: int, visitor: int) -> Visit:
        if stale := self.open.get((hit.site.id, visitor)):
            stale.live = 0
            self.changed[stale.site_id, stale.id] = stale
        page = self.texts.id_of(hit.event.page)
        visit = self.open[hit.site.id, visitor] = Visit(hit.site.id, hit_id, visitor, entry_page=page, exit_page=page)
        self.begun.append((visit, hit))
        return visit

    def _append(self, visit: Visit, hit: Hit, hit_id: int) -> None:
        name, page = self.texts.id_of(hit.event.name), self.texts.id_of(hit.event.page)
        visit.add(hit_id, name, page, hit.event.interactive)
        self.rows.append((hit_id, visit, hit))
        if name == PAGEVIEW:
            self.pages[visit.site_id, visit.id, page] = hit_id

    def _engage(self, visit: Visit, hit: Hit) -> None:
        """Add engagement to the visit's newest pageview of that page; where it never saw the page, it was only a sign of life."""
        page = self.texts.find(hit.event.page)
        hit_id = None if page is None else self._newest_pageview(visit, page)
        if hit_id:
            engaged, scroll = self.engaged.get((visit.site_id, hit_id), (0, None))
            deepest = max((each for each in (scroll, hit.event.scroll) if each is not None), default=None)
            self.engaged[visit.site_id, hit_id] = engaged + hit.event.engaged, deepest

    def _newest_pageview(self, visit: Visit, page: int) -> int | None:
        if found := self.pages.get((visit.site_id, visit.id, page)):
            return found
        if page == visit.exit_page and visit.exit_id:
            return visit.exit_id
        # A message that was overtaken by the next page's hit: look back from now, since its page was most likely the one before.
        row = self.db.execute("""
            select id from hits where site_id = ? and id >= ? and visit_id = ? and page = ? and name = ? order by id desc limit 1""",
                              (visit.site_id, visit.id, visit.id, page, PAGEVIEW)).fetchone()
        return row and row[0]

    def flush(self) -> None:
        """Write everything."""
        self._unseal()
        self._name_beginnings()
        if stale := [(visit.site_id, visit.id) for visit in self.changed.values() if not visit.live]:
            # Before the new ones, as a visitor has one visit in progress; and apart, as to set `live` is to write to its index.
            self.db.execute("""
                update visits set live = 0 from json_each(?) j
                where visits.site_id = json_extract(j.value, '$[0]') and visits.id = json_extract(j.value, '$[1]')""", (json.dumps(stale),))
        _insert(self.db, "visits", _VISIT_COLUMNS, map(_visit_row, self.changed.values()), """
            on conflict (site_id, id) do update set exit_page = excluded.exit_page, exit_after = excluded.exit_after,
            pageviews = excluded.pageviews, interactive = excluded.interactive, duration = excluded.duration""")
        text = self.texts.id_of
        _insert(self.db, "hits", ("site_id", "id", "since", "name", "page", "hostname"), (
            (visit.site_id, hit_id, hit_id - visit.id, text(hit.event.name), text(hit.event.page), text(hit.event.hostname))
            for hit_id, visit, hit in self.rows))
        _insert(self.db, "props", ("site_id", "hit_id", "key", "value"), {  # two names folded into (other) are one
            (visit.site_id, hit_id, text(key)): (visit.site_id, hit_id, text(key), text(value))
            for hit_id, visit, hit in self.rows for key, value in hit.event.props}.values())
        _insert(self.db, "revenue", ("site_id", "hit_id", "amount", "currency"), (
            (visit.site_id, hit_id, *hit.event.revenue) for hit_id, visit, hit in self.rows if hit.event.revenue))
        self._write_engagement()

    def _unseal(self) -> None:
        """Unseal the days of visits that change: none is sealed before all its visits are over, unless the clock was set back."""
        oldest: dict[int, int] = {}
        for site_id, visit_id in self.changed:
            oldest[site_id] = min(visit_id, oldest.get(site_id, visit_id))
        for site_id, visit_id in oldest.items():
            unseal(self.db, site_id, local_date(visit_id >> 16, self.zones[site_id]).toordinal())

    def _name_beginnings(self) -> None:
        """Give the visits that began here their client and origin."""
        arrivals = [hit.arrival() for _, hit in self.begun]
        self.texts.add(self.db, (text for arrival in arrivals for text in _closed_texts(*arrival)))
        clients, origins = [_client_row(client) for client, _ in arrivals], [_origin_row(origin) for _, origin in arrivals]
        self.texts.intern(self.db, [(hit.site.id, hit.second, text) for (_, hit), client, origin in zip(self.begun, clients, origins)
                                    for text in (*client, *origin)])
        ids = zip(self._combinations("clients", _CLIENT_COLUMNS, clients), self._combinations("origins", _ORIGIN_COLUMNS, origins))
        for (visit, _), (client_id, origin_id) in zip(self.begun, ids):
            visit.client_id, visit.origin_id = client_id, origin_id

    def _combinations(self, table: str, columns: Sequence[str], values: Sequence[tuple[str, ...]]) -> list[int]:
        """Return the row of `table` for each tuple of texts, adding those combinations that are new."""
        rows, known = [tuple(map(self.texts.id_of, value)) for value in values], self.texts.combinations[table]
        if fresh := [row for row in dict.fromkeys(rows) if row not in known]:
            _insert(self.db, table, columns, fresh, "on conflict do nothing")
            where = " and ".join(f"{column} = json_extract(j.value, '$[{index}]')" for index, column in enumerate(columns))
            found = self.db.execute(f"select j.key, t.id from json_each(?) j cross join {table} t where {where}", (json.dumps(fresh),))
            known.update((fresh[index], row_id) for index, row_id in found)
        return [known[row] for row in rows]

    def _write_engagement(self) -> None:
        rows = [(*key, *value) for key, value in self.engaged.items()]
        if rows:
            self.db.execute("""
                update hits set engaged = engaged + json_extract(j.value, '$[2]'),
                    scroll = max(coalesce(scroll, json_extract(j.value, '$[3]')), coalesce(json_extract(j.value, '$[3]'), scroll))
                from json_each(?) j where hits.site_id = json_extract(j.value, '$[0]') and hits.id = json_extract(j.value, '$[1]')""",
                            (json.dumps(rows),))


def count_drops(db: sqlite3.Connection, drops: Sequence[Drop]) -> None:
    """Count what was not counted."""
    tally = Counter((drop.site_id, drop.day, drop.reason) for drop in drops)
    _insert(db, "dropped", ("site_id", "day", "reason", "count"), [(*key, count) for key, count in tally.items()],
            "on conflict (site_id, day, reason) do update set count = count + excluded.count")


class Collector:
    """Takes events in: judges each, and returns only when what counts is on the disk."""

    def __init__(self, settings: CurrentSettings, store: Store, clock: Clock):
        self._settings, self._store, self._clock = settings, store, clock
        self._geoip = GeoIP(settings.started_with.geoip)
        patterns = asset("bots.txt").read_text("utf-8").splitlines()
        self.agents = UserAgents(line for line in patterns if line and not line.startswith("#"))
        self._texts = Texts(lambda: self._new_per_day)
        self._new_per_day = settings.started_with.new_values_per_day  # read by the writer, which must not read the database for it
        self._address_limits, self._site_limits = Limiter(clock), Limiter(clock)  # apart: a crowd of addresses pushes out no site
        self._limited: Counter[tuple[int, str]] = Counter()  # (site id, day) → hits over a limit that are not in the database yet
        self.salts = Salts()
        self._sites: dict[str, tuple[Site, float]] = {}  # domain → (site, when to read it again by time.monotonic)
        store.forgetters += [self._texts.forget, self._forget_sites]

    def collect(self, event: Event, sender: Sender) -> str:
        """Record an event for each site it names. Return "", or why it was dropped.

        Raises Busy where it cannot be written now, and TooMany where it is more than one address or site may send.
        """
        second = int(self._clock())
        sites = [self._find_site(domain) for domain in event.domains]
        self._hold_to_limits(list(filter(None, sites)), sender, second)
        items = [self._judge(event, site, sender, second) for site in sites]
        return next(filter(None, self._store.write(self.record, items)), "")

    def _hold_to_limits(self, sites: Sequence[Site], sender: Sender, second: int) -> None:
        """Raise TooMany where an event is one too many, and remember for its sites that there was one."""
        settings = self._settings()
        self._new_per_day = settings.new_values_per_day
        try:
            self._address_limits.check((network_of(sender.address),), settings.hits_per_address, "hits from one address")
            for site in sites:
                self._site_limits.check((site.id,), settings.hits_per_site, "hits for one site")
        except TooMany:
            for site in sites:
                drop = drop_of(site, second, "limit")
                self._limited[drop.site_id, drop.day] += 1
            raise

    def record_limited(self) -> None:
        """Write how many hits were over a limit since this was done last: one by one they would be the flood they are to stop."""
        limited, self._limited = self._limited, Counter()
        if limited:
            drops = [(site_id, day, count) for (site_id, day), count in limited.items()]
            self._store.transact(lambda db: db.executemany(
                "insert into dropped (site_id, day, reason, count) values (?, ?, 'limit', ?) "
                "on conflict (site_id, day, reason) do update set count = count + excluded.count", drops))

    def _judge(self, event: Event, site: Site | None, sender: Sender, second: int) -> Hit | Drop:
        """Return the Hit that counts for a site, or the Drop that says why none does."""
        reason = self._refusal(event, site, sender)
        if reason:
            return drop_of(site, second, reason)
        return Hit(site, second, sender, event, functools.partial(self._arrival, site, sender, event))

    def _find_site(self, domain: str) -> Site | None:
        """Return a site by its domain, from memory where it was read just now: a query of each request thread for each hit is dear."""
        sites = self._sites
        site, until = sites.get(domain, (None, 0.0))
        if time.monotonic() < until:
            return site
        if site := find_site(self._store.reader(), self._settings(), domain):
            sites[domain] = site, time.monotonic() + SITE_SECONDS
        return site

    def _forget_sites(self) -> None:
        self._sites = {}  # another dict, as a request thread may just now be putting into this one what it read before the change

    def _refusal(self, event: Event, site: Site | None, sender: Sender) -> str:
        """Return why an event does not count, the cheapest reasons first, or ""."""
        if site is None:
            return "unknown-site"
        if not site.allows(event.hostname):
            return "hostname"
        if sender.wants_privacy and site.gpc == "drop":
            return "gpc"
        if self.agents.read(sender.user_agent) is None:
            return "bot"
        if event.referrer and is_spam(event.referrer):
            return "spam"
        return ""

    def _arrival(self, site: Site, sender: Sender, event: Event) -> tuple[Client, Origin]:
        """Return what is stored of a visit that begins with this event."""
        mode = "paranoid" if sender.wants_privacy and site.gpc == "paranoid" else site.mode
        origin = origin_of(event.query, event.referrer, lambda host: host == event.hostname or site.owns(host), mode == "paranoid")
        if mode == "paranoid":
            return Client(), origin
        country, region, city = self._geoip.locate(sender.address)
        whole = dataclasses.replace(self.agents.read(sender.user_agent), country=country, region=region, city=city,
                                    language=sender.language, screen=screen_of(event.width))
        return reduce_client(whole, mode), origin

    def record(self, db: sqlite3.Connection, requests: Sequence[Sequence[Hit | Drop]]) -> list[list[str]]:
        """Write what each request brought, within the writer's transaction; return for each of it "" or why it does not count."""
        hits = [item for items in requests for item in items if isinstance(item, Hit)]
        drops = [item for items in requests for item in items if isinstance(item, Drop)]
        batch = Batch(db, self._texts, self.salts, hits)
        reasons = {id(hit): batch.add(hit, candidates) for hit, candidates in zip(hits, batch.visitors)}
        batch.flush()
        count_drops(db, [*drops, *(drop_of(hit.site, hit.second, reasons[id(hit)]) for hit in hits if reasons[id(hit)])])
        return [[item.reason if isinstance(item, Drop) else reasons[id(item)] for item in items] for items in requests]

    def close(self) -> None:
        """Let go of the GeoIP file."""
        self._geoip.close()


# ---- periods and filters ---------------------------------------------------------------------------------------------
# Local time becomes ranges of hit ids here, and filters become SQL: nothing else writes a WHERE from what was asked.

INTERVALS = ("minute", "hour", "day", "week", "month", "hour_of_week")
MAX_BUCKETS = 10_000
MAX_HOURS = 100_000  # that hours of the week are put together of: some eleven years
MAX_FILTER_DEPTH = 16
MAX_VALUES = 1_000  # in one filter
MAX_FILTERS = 2_000  # in one question, once all that its goals and segments stand for is in their place


@dataclass(frozen=True)
class Period:
    """A stretch of time: from `start` up to, not including, `end`, both unix seconds, seen in a time zone."""

    start: int
    end: int
    zone: zoneinfo.ZoneInfo

    @classmethod
    def of_days(cls, first: date, last: date, zone: zoneinfo.ZoneInfo) -> Period:
        """Return the period from the midnight that opens `first` to the one that closes `last`."""
        return cls(midnight(first, zone), midnight(last + timedelta(days=1), zone), zone)

    @property
    def first(self) -> date:
        """The local date it begins on."""
        return local_date(self.start, self.zone)

    @property
    def last(self) -> date:
        """The local date of its last second."""
        return local_date(max(self.start, self.end - 1), self.zone)

    @property
    def is_whole_days(self) -> bool:
        """Whether it begins and ends at midnight."""
        return self == Period.of_days(self.first, self.last, self.zone)

    def iso(self) -> list[str]:
        """Return its first and last second in ISO 8601, with the zone's offset."""
        return [datetime.fromtimestamp(second, self.zone).isoformat() for second in (self.start, max(self.start, self.end - 1))]


@dataclass(frozen=True)
class Bucket:
    """One step of a time series: `start` to `end` in unix seconds, under a local label."""

    label: str
    start: int
    end: int


def read_period(date_range: Any, zone: zoneinfo.ZoneInfo, now: float, earliest: Callable[[], int | None]) -> Period:
    """Return the Period of a `date_range`; `earliest` tells the second of the site's first hit. Raises InvalidInput.

    Source: https://plausible.io/docs/stats-api#date_range
    """
    today = local_date(now, zone)
    if isinstance(date_range, list):
        return _custom_period(date_range, zone)
    if not isinstance(date_range, str):
        raise InvalidInput.of("date_range", _PERIOD_HELP)
    if match := re.fullmatch(r"(7|28|30|91)d", date_range):
        return Period.of_days(today - timedelta(days=int(match[1])), today - timedelta(days=1), zone)
    if match := re.fullmatch(r"(6|12)mo", date_range):
        return Period.of_days(_add_months(today, -int(match[1])), today.replace(day=1) - timedelta(days=1), zone)
    if date_range == "month":
        return Period.of_days(today.replace(day=1), _add_months(today, 1) - timedelta(days=1), zone)
    if date_range == "year":
        return Period.of_days(today.replace(month=1, day=1), today.replace(month=12, day=31), zone)
    if date_range == "all":
        second = earliest()
        return Period.of_days(today if second is None else min(today, local_date(second, zone)), today, zone)
    if date_range == "day":
        return Period.of_days(today, today, zone)
    raise InvalidInput.of("date_range", _PERIOD_HELP)


_PERIOD_HELP = "must be day, 7d, 28d, 30d, 91d, month, 6mo, 12mo, year, all, or [from, to] with two dates or two date-times with an offset"


def _custom_period(pair: list, zone: zoneinfo.ZoneInfo) -> Period:
    try:
        if len(pair) != 2 or not all(isinstance(each, str) for each in pair):
            raise ValueError
        if all(re.fullmatch(r"\d{4}-\d\d-\d\d", each, re.ASCII) for each in pair):
            first, last = map(date.fromisoformat, pair)
            period = Period.of_days(first, last, zone)
        else:
            start, end = (datetime.fromisoformat(re.sub("[Zz]$", "+00:00", each)) for each in pair)
            if start.tzinfo is None or end.tzinfo is None:
                raise ValueError
            period = Period(int(start.timestamp()), int(end.timestamp()) + 1, zone)
    except (ValueError, OverflowError):
        raise InvalidInput.of("date_range", _PERIOD_HELP) from None
    if not 0 <= period.start < period.end <= 4_102_444_800:
        raise InvalidInput.of("date_range", "must end after it begins, between 1970 and 2100")
    return period


def _add_months(day: date, months: int) -> date:
    """Return the first of the month that lies `months` after that of `day`."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, 1)


def _year_before(day: date) -> date:
    try:
        return day.replace(year=day.year - 1)
    except ValueError:
        return day.replace(year=day.year - 1, day=28)


def comparison_period(period: Period, mode: str, custom: Period | None, match_day_of_week: bool, now: float) -> Period:
    """Return what a period is compared with; what of it lies ahead of today is left out of the comparison.

    Modes: previous_period (as many days, right before), year_over_year (the same dates), custom.
    """
    if mode == "custom":
        return custom
    if not period.is_whole_days:
        length = period.end - period.start
        shift = length if mode == "previous_period" else (period.first - _year_before(period.first)).days * 86_400
        return Period(period.start - shift, period.end - shift, period.zone)
    last = max(period.first, min(period.last, local_date(now, period.zone)))
    if mode == "year_over_year":
        first, last = _year_before(period.first), _year_before(last)
    else:
        length = last - period.first + timedelta(days=1)
        first, last = period.first - length, last - length
    shift = _to_weekday(period.first, first) if match_day_of_week else timedelta()
    return Period.of_days(first + shift, last + shift, period.zone)


def _to_weekday(wanted: date, day: date) -> timedelta:
    """Return the shortest shift that brings `day` to the weekday of `wanted`, but not onto `wanted` itself."""
    shift = (wanted.weekday() - day.weekday()) % 7
    if shift > 3 or day + timedelta(days=shift) == wanted:
        shift -= 7 if shift else 0
    return timedelta(days=shift)


def interval_of(dimension: str, period: Period) -> str:
    """Return the interval of a time dimension; plain `time` takes one that suits the period."""
    if dimension != "time":
        return dimension.partition(":")[2]
    days = (period.last - period.first).days + 1
    return "hour" if days == 1 else "day" if days <= 92 else "month"


def buckets_of(period: Period, interval: str) -> list[Bucket]:
    """Return the buckets of a period, none left out. Raises InvalidInput where they would be too many.

    Hours of the week come around again, so of them `start` and `end` only say their place: "1 09" is Mondays from nine to ten.
    """
    if interval == "hour_of_week":
        return [Bucket(f"{place // 24 + 1} {place % 24:02}", place, place + 1) for place in range(168)]
    seconds = {"minute": 60, "hour": 3600, "day": 86_400, "week": 604_800, "month": 2_419_200}[interval]
    if (period.end - period.start) / seconds > MAX_BUCKETS:
        raise InvalidInput.of("dimensions", f"time:{interval} gives too many points for this period; take a longer interval")
    edges = _clock_edges(period, seconds) if seconds <= 3600 else _calendar_edges(period, interval)
    starts = [max(start, period.start) for start, _ in edges] + [period.end]
    return [Bucket(label, start, end) for (_, label), start, end in zip(edges, starts, starts[1:]) if start < end]  # a zone may skip a day


def ranges_of(period: Period, interval: str, buckets: Sequence[Bucket]) -> list[tuple[int, int, int]]:
    """Return [(place of a bucket, from, to)]: the ranges of hit ids that buckets are made of. Raises InvalidInput for too many."""
    if interval != "hour_of_week":
        return [(place, bucket.start << 16, bucket.end << 16) for place, bucket in enumerate(buckets)]
    if period.end - period.start > MAX_HOURS * 3600:
        raise InvalidInput.of("dimensions", "time:hour_of_week is for shorter periods")
    edges = _clock_edges(period, 3600)
    ends = [second for second, _ in edges[1:]] + [period.end]
    return [(datetime.fromisoformat(label[:10]).weekday() * 24 + int(label[11:13]), second << 16, end << 16) for (second, label), end in zip(edges, ends)]


def _calendar_edges(period: Period, interval: str) -> list[tuple[int, str]]:
    """Return [(second, label)] of the days, weeks from Monday, or months that a period touches."""
    day, last = period.first, period.last
    if interval == "week":
        day -= timedelta(days=day.weekday())
    elif interval == "month":
        day = day.replace(day=1)
    edges = []
    while day <= last:
        edges.append((midnight(day, period.zone), day.isoformat()))
        day = _add_months(day, 1) if interval == "month" else day + timedelta(days=7 if interval == "week" else 1)
    return edges


def _clock_edges(period: Period, length: int) -> list[tuple[int, str]]:
    """Return [(second, label)] of the local hours or minutes that a period touches; where clocks go back, an hour stands twice."""
    edges = []
    second = period.start
    while second < period.end:
        local = datetime.fromtimestamp(second, period.zone)
        into = local.minute % (length // 60) * 60 + local.second
        label = (local - timedelta(seconds=into)).replace(fold=local.fold)
        edges.append((second, label.strftime("%Y-%m-%d %H:%M:%S") + (local.isoformat()[-6:] if local.fold else "")))
        second = _next_edge(second, second + length - into, period.zone)
    return edges


def _next_edge(second: int, edge: int, zone: zoneinfo.ZoneInfo) -> int:
    """Return `edge`, or the moment before it at which the zone's offset changes: in some zones that is not on the hour."""
    def offset(moment: int) -> timedelta:
        return datetime.fromtimestamp(moment, zone).utcoffset()
    before = offset(second)
    if offset(edge) == before:
        return edge
    return bisect.bisect_left(range(second, edge), True, key=lambda moment: offset(moment) != before) + second


@dataclass(frozen=True)
class Dimension:
    """Something to group and filter by. `column` is SQL over h(its), v(isits), c(lients), o(rigins) that gives the id of a text."""

    label: str
    column: str
    empty: str = "(not set)"
    key: str = ""


def _event(label: str, column: str) -> Dimension:
    return Dimension(label, f"h.{column}")


DIMENSIONS = {
    "event:page": _event("Page", "page"),
    "event:hostname": _event("Hostname", "hostname"),
    "event:name": _event("Event", "name"),
    "visit:entry_page": Dimension("Entry page", "v.entry_page"),
    "visit:exit_page": Dimension("Exit page", "v.exit_page"),
    "visit:source": Dimension("Source", "o.source", "Direct"),
    "visit:channel": Dimension("Channel", "o.channel"),
    "visit:referrer": Dimension("Referrer", "o.referrer"),
    **{f"visit:{name}": Dimension(name.replace("utm_", "UTM "), f"o.{name}") for name in UTM_TAGS},
    "visit:country": Dimension("Country", "c.country"),
    "visit:region": Dimension("Region", "c.region"),
    "visit:city": Dimension("City", "c.city"),
    "visit:device": Dimension("Device", "c.device"),
    "visit:browser": Dimension("Browser", "c.browser"),
    "visit:browser_version": Dimension("Browser version", "c.browser_version"),
    "visit:os": Dimension("Operating system", "c.os"),
    "visit:os_version": Dimension("Operating system version", "c.os_version"),
    "visit:language": Dimension("Language", "c.language"),
    "visit:screen": Dimension("Screen size", "c.screen"),
}
TIME_DIMENSIONS = ("time", *(f"time:{interval}" for interval in INTERVALS))
_PROP = "event:props:"
_PROP_COLUMN = """coalesce((select p.value from props p where p.site_id = h.site_id and p.hit_id = h.id
    and p.key = (select id from texts where text = {key})), 0)"""


def dimension_of(name: Any, where: str = "dimensions") -> Dimension:
    """Return the Dimension of that name. Raises InvalidInput, of the field `where`, when there is none."""
    if isinstance(name, str):
        if name in DIMENSIONS:
            return DIMENSIONS[name]
        if name.startswith(_PROP) and len(name) > len(_PROP):
            return Dimension(name[len(_PROP):], _PROP_COLUMN, "(none)", key=name[len(_PROP):])
    raise InvalidInput.of(where, f"{name!r} is not a dimension; there are {', '.join(DIMENSIONS)}, {_PROP}NAME"
                          + (f" and {', '.join(TIME_DIMENSIONS)}" if where == "dimensions" else ""))


class Binder:
    """Collects the values of a query while its SQL is put together: every value is bound, none is written into SQL."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def bind(self, value: Any) -> str:
        """Return the placeholder that stands for `value`."""
        name = f"p{len(self.values)}"
        self.values[name] = value
        return f":{name}"

    def column(self, dimension: Dimension) -> str:
        """Return a dimension's SQL."""
        return dimension.column.format(key=self.bind(dimension.key)) if dimension.key else dimension.column


_JOINED = """hits h
    join visits v on v.site_id = h.site_id and v.id = h.visit_id
    left join clients c on c.id = v.client_id
    left join origins o on o.id = v.origin_id"""  # SQLite leaves out a left join that nothing looks at

# What of a pageview at_least looks at: its column, and how many of the column's units are one of the filter's.
MEASURES = {"event:scroll_depth": ("coalesce(h.scroll, 0)", 1), "event:time_on_page": ("h.engaged", 1000)}
VIEWS = ["is", "event:name", ["pageview"]]
GOAL, SEGMENT = "event:goal", "segment"


@dataclass(frozen=True)
class Definitions:
    """The goals and segments that a question may name: the filters that each stands for."""

    goals: Mapping[str, list] = field(default_factory=dict)  # by name
    segments: Mapping[int, list] = field(default_factory=dict)  # by id
    mark: str = ""  # another text for other definitions

    def of(self, kind: str, name: Any) -> list | None:
        """Return the filters that a name stands for, None where there is none."""
        return (self.goals if kind == GOAL else self.segments).get(name)

    def expand(self, filters: Sequence, names: Collection[str] = (GOAL, SEGMENT)) -> tuple:
        """Return filters that name no goal and no segment any more, and no "and" at the top. Raises InvalidInput.

        What is not of the form of a filter stays as it is, for the compiler to complain of. With other `names` less is expanded.
        """
        expansion = _Expansion(self, names)
        return tuple(_conjuncts([expansion.node(each, 0, ()) for each in filters]))


def _conjuncts(filters: Iterable) -> Iterator:
    """Yield filters, of an "and", or of one alone in an "or", its parts: the fewer things one looks at, the more of them sealed days can decide."""
    for each in filters:
        if isinstance(each, list) and len(each) == 2 and isinstance(each[1], list) and each[1] and (each[0] == "and" or each[0] == "or" and len(each[1]) == 1):
            yield from _conjuncts(each[1])
        else:
            yield each


class _Expansion:
    """Puts what goals and segments stand for in the place of their names, throughout one question."""

    def __init__(self, definitions: Definitions, names: Collection[str]):
        self._definitions, self._names, self._size = definitions, names, 0

    def node(self, node: Any, depth: int, inside: tuple) -> Any:
        """Return a filter without names; `inside` is what it is a part of."""
        self._size += 1
        if self._size > MAX_FILTERS:
            raise InvalidInput.of("filters", f"stand for more than {MAX_FILTERS} filters, with those of their segments and goals")
        if depth > MAX_FILTER_DEPTH:
            raise InvalidInput.of("filters", f"must not be nested deeper than {MAX_FILTER_DEPTH}, with what goals and segments stand for")
        if not isinstance(node, list) or len(node) < 2:
            return node
        operator, rest = node[:2]
        if operator in ("and", "or") and isinstance(rest, list):
            return [operator, [self.node(each, depth + 1, inside) for each in rest], *node[2:]]
        if operator in ("not", "has_done", "has_not_done"):
            return [operator, self.node(rest, depth + 1, inside), *node[2:]]
        return self._named(node, depth, inside) if rest in self._names else node

    def _named(self, node: list, depth: int, inside: tuple) -> list:
        if node[0] not in ("is", "is_not") or len(node) != 3 or not isinstance(node[2], list) or not 1 <= len(node[2]) <= MAX_VALUES:
            raise InvalidInput.of("filters", f"{node[1]} takes \"is\" or \"is_not\", and a list of "
                                  + ("names of goals" if node[1] == GOAL else "ids of segments"))
        parts = [self._definition((node[1], each), depth, inside) for each in node[2]]
        joined = parts[0] if len(parts) == 1 else ["or", parts]
        return joined if node[0] == "is" else ["not", joined]

    def _definition(self, name: tuple[str, Any], depth: int, inside: tuple) -> list:
        kind, value = name
        filters = self._definitions.of(kind, value) if isinstance(value, str if kind == GOAL else int) and not isinstance(value, bool) else None
        if filters is None:
            raise InvalidInput.of("filters", f"there is no {'goal' if kind == GOAL else 'segment'} {value!r} here")
        if name in inside:
            circle = " → ".join(f"{'goal' if each == GOAL else each} {its!r}" for each, its in (*inside[inside.index(name):], name))
            raise InvalidInput.of("filters", f"go round in a circle: {circle}")
        return ["and", [self.node(each, depth + 1, (*inside, name)) for each in filters]]


MAX_PATTERNS = 150_000  # parts, and characters, of the regular expressions in one question, with 50 more for each


def check_patterns(where: str, asked: Any, definitions: Definitions) -> None:
    """Raise InvalidInput, of the field `where`, if the regular expressions in a question would take long only to be made ready.

    `asked` is anything that holds filters; what goals and segments stand for counts too, and the same expression once.
    """
    size = 0
    for text in set(_patterns(asked, definitions)):
        size += 50 + len(text)
        if size > MAX_PATTERNS or (size := size + len(_Parts(text))) > MAX_PATTERNS:
            raise InvalidInput.of(where, "have too many or too large regular expressions; use fewer or simpler ones")


def _patterns(asked: Any, definitions: Definitions) -> Iterator[str]:
    """Yield the regular expressions in anything that holds filters."""
    open_, seen = [asked], set()
    while open_:
        value = open_.pop()
        names = []
        if isinstance(value, dict):
            names = [(GOAL, name) for name in definitions.goals if GOAL in (value.get("dimensions") or ())]
            value = list(value.values())
        elif not isinstance(value, list):
            continue
        elif len(value) > 2 and isinstance(value[2], list):
            yield from (each for each in value[2] if value[0] in ("matches", "matches_not") and isinstance(each, str) and len(each) <= PAGE_LIMIT)
            names = [(value[1], each) for each in value[2] if value[1] in (GOAL, SEGMENT) and isinstance(each, (str, int))]
        open_ += [*value, *(definitions.of(*name) for name in names if name not in seen)]
        seen.update(names)


# How an operator tests the texts t against the wanted values j; {text} is what a person sees of t.
_TESTS = {
    "is": "{text} = {value}",
    "contains": "instr({text}, {value}) > 0",
    "starts_with": "substr({text}, 1, length({value})) = {value}",
    "matches": "{text} regexp {value}",
}


def _balanced(operator: str, conditions: Sequence[str]) -> str:
    """Return conditions joined, many of them as a tree: SQLite takes a row of a thousand for an expression that is too deep."""
    if len(conditions) <= 8:
        return f" {operator} ".join(conditions)
    middle = len(conditions) // 2
    return f"({_balanced(operator, conditions[:middle])}) {operator} ({_balanced(operator, conditions[middle:])})"


class Where:
    """The one compiler from (site, period, filters) to SQL."""

    def __init__(self, binder: Binder, site: Site, period: Period):
        self._binder, self._site, self._period = binder, site, period

    def compile(self, filters: Sequence) -> str:
        """Return the condition over h, v, c and o that all `filters` hold. Raises InvalidInput."""
        return _balanced("and", ["true", *(self._filter(each, 0) for each in filters)])

    def compile_visits(self, filters: Sequence) -> str:
        """Return the condition that a hit is of a visit which `filters` choose: some hit of it within the period passes them all."""
        of_hits = [each for each in filters if not all(name.startswith("visit:") for name in filtered_dimensions([each]))]
        of_visits = self.compile([each for each in filters if each not in of_hits])
        return f"{of_visits} and {self._behaviour('has_done', self.compile(of_hits))}" if of_hits else of_visits

    def _filter(self, node: Any, depth: int) -> str:
        if not isinstance(node, list) or len(node) < 2 or not isinstance(node[0], str):
            raise InvalidInput.of("filters", "each must be [operator, dimension, [values]], [\"and\"|\"or\", [filters]] or [\"not\", filter]")
        if depth > MAX_FILTER_DEPTH:
            raise InvalidInput.of("filters", f"must not be nested deeper than {MAX_FILTER_DEPTH}")
        operator, rest = node[0], node[1:]
        if operator in ("and", "or"):
            return self._join(operator, rest, depth)
        if operator in ("not", "has_done", "has_not_done"):
            if len(rest) != 1:
                raise InvalidInput.of("filters", f"\"{operator}\" takes one filter")
            inner = self._filter(rest[0], depth + 1)
            return f"not {inner}" if operator == "not" else self._behaviour(operator, inner)
        if operator == "at_least":
            return self._measure(rest)
        dimension, is_negated, texts = self.read_leaf(operator, rest)
        return f"({self._binder.column(dimension)} {'not ' if is_negated else ''}in ({texts}))"

    def _measure(self, rest: list) -> str:
        """Return the condition that the hit is a pageview that was read as far, or as long."""
        column, unit = MEASURES.get(rest[0], (None, 0)) if isinstance(rest[0], str) else (None, 0)
        values = rest[1] if len(rest) == 2 else None
        if column is None or not isinstance(values, list) or len(values) != 1 or isinstance(values[0], bool) \
                or not isinstance(values[0], (int, float)) or not 0 <= values[0] <= ENGAGED_LIMIT / 1000:
            raise InvalidInput.of("filters", f"\"at_least\" takes {' or '.join(MEASURES)}, and a list of one number")
        return f"(h.name = {PAGEVIEW} and {column} >= {self._binder.bind(values[0] * unit)})"

    @property
    def values(self) -> dict[str, Any]:
        """The values that are bound so far."""
        return self._binder.values

    def bind(self, value: Any) -> str:
        """Return the placeholder that stands for another value."""
        return self._binder.bind(value)

    def _join(self, operator: str, rest: list, depth: int) -> str:
        if len(rest) != 1 or not isinstance(rest[0], list) or not rest[0]:
            raise InvalidInput.of("filters", f"\"{operator}\" takes a list of filters")
        return f"({_balanced(operator, [self._filter(each, depth + 1) for each in rest[0]])})"

    def _behaviour(self, operator: str, inner: str) -> str:
        """Return the condition that the hit's visit has, or has not, some hit within the period that passes `inner`."""
        bind = self._binder.bind
        return f"""h.visit_id {'' if operator == 'has_done' else 'not '}in (select h.visit_id from {_JOINED}
            where h.site_id = {bind(self._site.id)} and h.id >= {bind(self._period.start << 16)} and h.id < {bind(self._period.end << 16)}
            and {inner})"""

    def read_leaf(self, operator: str, rest: list) -> tuple[Dimension, bool, str]:
        """Return (what a filter looks at, whether it is negated, the query of the ids of the texts it names). Raises InvalidInput."""
        positive = operator.removesuffix("_not")
        if positive not in _TESTS:
            raise InvalidInput.of("filters", f"{operator!r} is not an operator; there are {', '.join(f'{each}, {each}_not' for each in _TESTS)}, "
                                  "at_least, and, or, not, has_done, has_not_done")
        dimension = dimension_of(rest[0], "filters")
        values, fold = _read_values(positive, rest[1:])
        return dimension, positive != operator, self._texts(positive, dimension, values, fold)

    def _texts(self, operator: str, dimension: Dimension, values: list[str], fold: bool) -> str:
        """Return the query of the ids of those texts that pass; id 0 is seen as the word for what is empty."""
        empty = self._binder.bind(dimension.empty)
        if operator == "is" and not fold:
            wanted = self._binder.bind(json.dumps(["" if value == dimension.empty else value for value in values]))
            return f"select id from texts where text in (select value from json_each({wanted}))"
        text, value = f"case t.id when 0 then {empty} else t.text end", "j.value"
        if fold:
            text, value = f"casefold({text})", "casefold(j.value)"
        test = _TESTS[operator].format(text=text, value=value)
        return f"select t.id from json_each({self._binder.bind(json.dumps(values))}) j, texts t where {test}"


class ReadyWhere(Where):
    """The compiler of what looks at every hit of a period: texts are looked up beforehand, so that only numbers are compared there."""

    def __init__(self, db: sqlite3.Connection, binder: Binder, site: Site, period: Period):
        super().__init__(binder, site, period)
        self._db = db

    def _texts(self, operator: str, dimension: Dimension, values: list[str], fold: bool) -> str:
        ids = [each for each, in self._db.execute(super()._texts(operator, dimension, values, fold), self.values)]
        return ", ".join(map(str, ids)) if len(ids) <= 8 else f"select value from json_each({self.bind(json.dumps(ids))})"


def _check_pattern(where: str, text: str) -> None:
    """Raise InvalidInput, of the field `where`, unless a text is a regular expression."""
    try:
        pattern(text)
    except InvalidInput as error:
        raise InvalidInput.of(where, str(error)) from error


def _read_values(operator: str, rest: list) -> tuple[list[str], bool]:
    """Return (the values of a filter, whether case does not matter). Raises InvalidInput."""
    values, modifiers = (rest + [[], {}])[:2] if len(rest) == 1 else (rest + [None, None])[:2]
    if not 1 <= len(rest) <= 2 or not isinstance(values, list) or not 1 <= len(values) <= MAX_VALUES:
        raise InvalidInput.of("filters", f"must have a list of 1 to {MAX_VALUES} values after the dimension")
    if len(rest) == 1:
        modifiers = {}
    if not all(isinstance(value, str) and len(value) <= PAGE_LIMIT for value in values):
        raise InvalidInput.of("filters", f"values must be text of at most {PAGE_LIMIT} characters")
    if not isinstance(modifiers, dict) or set(modifiers) - {"case_sensitive"} or not isinstance(modifiers.get("case_sensitive", True), bool):
        raise InvalidInput.of("filters", "the only modifier is {\"case_sensitive\": true|false}")
    if operator == "matches" and modifiers:
        raise InvalidInput.of("filters", "a pattern has no case_sensitive modifier; write (?i) into it")
    return values, not modifiers.get("case_sensitive", True)


def filtered_dimensions(filters: Any) -> Iterator[str]:
    """Yield the dimensions that filters look at, those of has_done and has_not_done left out: they choose visits, not hits."""
    for node in filters:
        if node[0] in ("and", "or"):
            yield from filtered_dimensions(node[1])
        elif node[0] == "not":
            yield from filtered_dimensions(node[1:])
        elif node[0] not in ("has_done", "has_not_done"):
            yield node[1]


# ---- sealed days -----------------------------------------------------------------------------------------------------
# A day that is over cannot change any more. It is sealed: its totals become rollups, its visits are packed into columns. Reports
# of whole days then add up the rollups, or where there are filters go through the columns, instead of through all hits.
#
# Days overlap: a visit over midnight, and its visitor, are seen on both. What is counted twice is taken back at the seam. It keeps
# the visits of those visitors three times: as seen on the day before, on the day, and on both; the sum over two days is
# day + day + both - before - after. For that no visitor may come on three days or leave one out; a day of which that is not
# certain is never added up, and reports count hits instead.

LIVE_DAYS = 3  # most days of a report that may not be sealed yet; they are packed anew each time
DAY_HITS = 1_000_000  # most hits of a day that is sealed, or read for a report: takes seconds, and half of them some 100 MB for a moment
READ_HITS = 100_000  # about as many are read at once: takes some 60 MB
COUNTED_DAYS = 7  # most days whose hits are counted rather than that one of them is read which has more than that
SEAM = 2  # of the parts in `columns`
WIDE = 2_000  # values from which on a dimension of a day has no rollups: the columns are as fast then, and smaller

# What reports add up, and how SQL does it over `seen`, the visits that a report sees, one row for each in every group.
SUMS = {
    "visitors": "count(distinct visitor)",
    "visits": "count(*)",
    "pageviews": "sum(pageviews)",
    "events": "sum(events)",
    "entries": "sum(entered)",                # visits that entered here
    "bounces": "sum(bounced and entered)",
    "duration": "sum(duration)",              # s
    "viewed": "sum(pageviews > 0)",           # visits with a pageview here
    "engaged": "sum(engaged)",                # ms
    "depth": "coalesce(sum(scroll), 0)",      # percent …
    "scrolled": "count(scroll)",              # … of so many visits
    "exits": "sum(exits)",                    # pageviews that ended a visit
}
_AT_MOST_ONE = {"entries", "bounces", "viewed", "scrolled", "exits"}  # of each visit
_UNPACKED = {"engaged", "depth", "scrolled"}  # of hits; too large to be kept for every visit
_HIT_SUMS = ("pageviews", "events", "engaged", "depth", "exits")
_HIT_KINDS = ("page", "name", "hostname", "hour")
HOUR = "hour"  # of the day, as a dimension of sealed days: not one of DIMENSIONS, since its values are no texts
_VISIT_SUMS = ("pageviews", "events", "bounces", "duration", "exits")
_PACKED = ("visitor", "client_id", "origin_id", "entry_page", "exit_page", *_VISIT_SUMS)


class Block:
    """Visits as they were on one day, column by column: one number for each visit.

    The columns are those of _PACKED; `visitor` counts from 0, and is there only where one may have several visits. What the visits
    saw are columns too, longer ones: "page" has a page of every visit, then a second one of those visits that saw two, and so on.
    Visits that saw more stand first, so "page/lengths" says whose they are: the first so many visits'. Where that is not so,
    "page/owners" names, at the end, the visits one by one. Beside a page are its sums, as in "page/pageviews".

    "way" has all hits, visit after visit and in their order, as many of each visit as "events" tells. A hit is a number, the place of its
    name and page in "way/name" and "way/page"; "way/seconds" are those since the hit before, of a visit's first since the block's first.
    """

    def __init__(self, columns: Mapping[str, Sequence[int]], packed: Mapping[str, tuple[str, bytes]] = types.MappingProxyType({})):
        self._columns = dict(columns)
        self._still_packed = packed
        self._planes: dict[str, tuple[str, bytes]] = {}
        self._masks: dict[tuple[str, frozenset[int]], int] = {}
        self._spread: dict[tuple[str, bytes], bytes] = {}

    def __len__(self) -> int:
        return len(self["client_id"])

    def __contains__(self, name: str) -> bool:
        return name in self._columns or name in self._still_packed

    def __getitem__(self, name: str) -> Sequence[int]:
        if name not in self._columns:
            self._columns[name] = _unpack_column(*self._raw(name))
        return self._columns[name]

    def but(self, columns: Mapping[str, Sequence[int]]) -> Block:
        """Return a Block with other columns in the place of some, to be gone through number by number."""
        return Block({**self._columns, **columns}, self._still_packed)

    def _raw(self, name: str) -> tuple[str, bytes]:
        """Return a packed column as it is before it is compressed."""
        if name not in self._planes:
            code, data = self._still_packed[name]
            self._planes[name] = code, zlib.decompress(data)
        return self._planes[name]

    def among(self, name: str, wanted: Wanted) -> int:
        """Return for each number of a column whether it is one of those wanted, as a number of which each byte is 1 or 0."""
        key = name, wanted.numbers
        if key not in self._masks:
            mask = wanted.in_planes(*self._raw(name)) if name in self._still_packed else None
            self._masks[key] = _as_int(bytes(map(wanted.numbers.__contains__, self[name]))) if mask is None else mask
        return self._masks[key]

    def sum(self, name: str, mask: bytes) -> int:
        """Return the sum of those numbers of a column that a mask has 1 for."""
        column = self[name]
        if isinstance(column, array) and column.itemsize == 1:  # as most are: few of them are left to be looked at
            return sum((_as_int(column.tobytes()) & 255 * _as_int(mask)).to_bytes(len(mask), "little").translate(None, b"\0"))
        return sum(itertools.compress(column, mask))

    def owners(self, kind: str) -> Iterator[int]:
        """Yield the places of the visits that a kind's values are of."""
        return itertools.chain(itertools.chain.from_iterable(map(range, self[f"{kind}/lengths"])), self[f"{kind}/owners"])

    def spread(self, kind: str, mask: bytes) -> bytes:
        """Return a mask of visits as a mask of the values of a kind."""
        if (kind, mask) not in self._spread:
            ranks = (mask[:length] for length in self[f"{kind}/lengths"])
            self._spread[kind, mask] = b"".join((*ranks, bytes(map(mask.__getitem__, self[f"{kind}/owners"]))))
        return self._spread[kind, mask]

    def gather(self, kind: str, mask: bytes) -> bytes:
        """Return a mask of the values of a kind as a mask of the visits that have any of them."""
        found, start = 0, 0
        for length in self[f"{kind}/lengths"]:
            found |= _as_int(mask[start:start + length])
            start += length
        gathered = bytearray(found.to_bytes(len(self), "little"))
        for owner in itertools.compress(self[f"{kind}/owners"], mask[start:]):
            gathered[owner] = 1
        return bytes(gathered)

    def pack(self) -> bytes:
        """Return it as bytes, without what is not kept of sealed days."""
        kept = {name: _pack_column(column) for name, column in self._columns.items()
                if name in _PACKED or name.partition("/")[0] in (*_HIT_KINDS, "way") and name.partition("/")[2] not in (*_UNPACKED, "exits")}
        header = json.dumps([(name, code, len(data)) for name, (code, data) in kept.items()]).encode()
        return b"".join((len(header).to_bytes(4, "little"), header, *(data for _, data in kept.values())))

    @classmethod
    def unpack(cls, data: bytes) -> Block:
        """Return the Block of bytes; each column is unpacked when it is asked for."""
        start = 4 + int.from_bytes(data[:4], "little")
        packed = {}
        for name, code, size in json.loads(data[4:start]):
            packed[name] = code, data[start:start + size]
            start += size
        return cls({}, packed)


def _pack_column(column: Sequence[int]) -> tuple[str, bytes]:
    """Return (array's letter for the size of a number, the numbers compressed: all their first bytes, all their second bytes, …)."""
    packed = _small(column)[:]
    if sys.byteorder == "big":
        packed.byteswap()
    raw, size = packed.tobytes(), packed.itemsize
    return packed.typecode, zlib.compress(b"".join(raw[byte::size] for byte in range(size)))


def _small(column: Sequence[int]) -> array:
    """Return the numbers of a column, none of them negative, as the smallest array that holds them."""
    if isinstance(column, array):
        return column
    most = max(column, default=0)
    return array(next(code for code in "BHIQ" if most < 256 ** array(code).itemsize), column)


def _unpack_column(code: str, planes: bytes) -> array:
    column = array(code)
    size = column.itemsize
    raw, count = bytearray(len(planes)), len(planes) // size
    for byte in range(size):
        raw[byte::size] = planes[byte * count:(byte + 1) * count]
    column.frombytes(raw)
    if sys.byteorder == "big":
        column.byteswap()
    return column


class Wanted:
    """Numbers to be found in columns. Of packed ones their bytes are looked at, all at once: that is some ten times as fast."""

    MANY = 12  # different upper bytes, from which on it is as fast to look at each number of a column

    def __init__(self, numbers: Iterable[int]):
        self.numbers = frozenset(numbers)

    @functools.cached_property
    def _lower(self) -> dict[int, bytes]:
        """For each upper byte there is, the table that makes 1 of lower bytes that are wanted with it, and 0 of others."""
        lower: dict[int, bytearray] = defaultdict(lambda: bytearray(256))
        for number in self.numbers:
            if number < 1 << 16:
                lower[number >> 8][number & 255] = 1
        return {upper: bytes(table) for upper, table in lower.items()}

    def in_planes(self, code: str, planes: bytes) -> int | None:
        """Return for each number of a column, as _pack_column() has it, whether it is wanted; None where there is no faster way to tell."""
        if code == "B":
            return _as_int(planes.translate(self._lower.get(0, bytes(256))))
        if code != "H" or len(self._lower) > self.MANY:
            return None
        size, found = len(planes) // 2, 0
        lower, upper = planes[:size], planes[size:]
        for byte, table in self._lower.items():
            found |= _as_int(lower.translate(table)) & _as_int(upper.translate(_ONLY[byte]))
        return found


def _as_int(mask: bytes) -> int:
    """Return a mask as a number: such are joined all at once."""
    return int.from_bytes(mask, "little")


_ONLY = [bytes(byte) + b"\1" + bytes(255 - byte) for byte in range(256)]  # tables that make 1 of one byte, and 0 of all others


class _Piece(NamedTuple):
    """What of a visit lies within some stretch of time: its row, {value: its _HIT_SUMS} of each kind, and [(name, page, second)] of its hits."""

    visit: tuple
    page: dict[int, tuple]
    name: dict[int, tuple]
    hostname: dict[int, tuple]
    hour: dict[int, tuple]
    way: list[tuple[int, int, int]]


class Share(NamedTuple):
    """A part of all visitors: a day of too many hits to be read at once is read share by share. Who is of one is of no other."""

    share: int = 0
    shares: int = 1

    def test(self, visitor: str) -> str:
        """Return the condition that a visitor, given by SQL, is of this share; its values are those of _asdict()."""
        return "true" if self.shares == 1 else f"({visitor} & 0xffffff) % :shares = :share"


_PIECE_COLUMNS = "id, visitor, client_id, origin_id, entry_page, exit_page, pageviews = 1 and not interactive, duration, exit_id"


def _read_pieces(db: sqlite3.Connection, site: Site, low: int, high: int, share: Share, visits: Mapping[int, tuple] | None = None) -> list[_Piece]:
    """Return the pieces of visits that lie between two ids; only of some, where rows of `visits` are given by their id."""
    only = "visit_id in (select value from json_each(:only))"
    if visits is None:
        only = "true" if share.shares == 1 else f"""exists (
            select 1 from visits v where v.site_id = hits.site_id and v.id = hits.visit_id and {share.test('v.visitor')})"""
    hits = db.execute(f"""
        select visit_id, page, name, hostname, engaged, scroll, id from hits
        where site_id = :site and id >= :low and id < :high and {only} order by visit_id, id""",
                      {"site": site.id, "low": low, "high": high, "only": json.dumps(list(visits or ())), **share._asdict()}).fetchall()
    if visits is None:
        visits = _read_visits(db, site.id, low, high, share, {visit_id for visit_id, *_ in hits if visit_id < low})
    hour_of = functools.cache(lambda quarter: datetime.fromtimestamp(quarter * 900, site.zone).hour)  # clocks change on the quarter
    # A hit of no visit, as only a damaged database has, is left out.
    return [_piece(visits[visit_id], list(rows), hour_of) for visit_id, rows in itertools.groupby(hits, operator.itemgetter(0)) if visit_id in visits]


def _piece(visit: tuple, rows: list[tuple], hour_of: Callable[[int], int]) -> _Piece:
    piece = _Piece(visit, {}, {}, {}, {}, [(name, page, hit_id >> 16) for _, page, name, _, _, _, hit_id in rows])
    for _, page, name, hostname, engaged, scroll, hit_id in rows:
        sums = (int(name == PAGEVIEW), 1, engaged, 0 if scroll is None else scroll + 1, int(hit_id == visit[8]))
        hour = hour_of((hit_id >> 16) // 900)
        for saw, value in ((piece.page, page), (piece.name, name), (piece.hostname, hostname), (piece.hour, hour)):
            saw[value] = _joined(saw[value], sums) if value in saw else sums
    return piece


def _joined(one: tuple, other: tuple) -> tuple:
    """Return two tuples of _HIT_SUMS as one: amounts are added, of depths the deeper stays."""
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], max(one[3], other[3]), one[4] + other[4]


def _read_visits(db: sqlite3.Connection, site_id: int, low: int, high: int, share: Share, more: Iterable[int] = ()) -> dict[int, tuple]:
    """Return the rows of visits that began between two ids, and of `more`, by their id."""
    rows = db.execute(f"""
        select {_PIECE_COLUMNS} from visits where site_id = :site and id >= :low and id < :high and {share.test('visitor')} union all
        select {_PIECE_COLUMNS} from visits where site_id = :site and id in (select value from json_each(:more))""",
                      {"site": site_id, "low": low, "high": high, "more": json.dumps(list(more)), **share._asdict()})
    return {row[0]: row for row in rows}


def _block(pieces: list[_Piece], with_visitors: bool) -> Block:
    """Return pieces as columns. Their order is ours to choose: it makes ranks of pages begin at the first visit, and columns small."""
    pieces.sort(key=lambda piece: (-len(piece.page), piece.visit[3], piece.visit[2], piece.visit[4]))
    ids, visitors, clients, origins, entries, exits, bounced, durations, _ = zip(*(piece.visit for piece in pieces)) if pieces else [()] * 9
    sums = [functools.reduce(_joined, piece.hostname.values()) for piece in pieces]
    columns: dict[str, Sequence[int]] = {
        "client_id": clients, "origin_id": origins, "entry_page": entries, "exit_page": exits, "bounces": bounced, "duration": durations,
        **dict(zip(_HIT_SUMS, zip(*sums) if sums else [()] * len(_HIT_SUMS)))}
    if with_visitors:
        numbers: dict[int, int] = {}
        columns["visitor"] = [numbers.setdefault(visitor, len(numbers)) for visitor in visitors]
    for place, kind in enumerate(_HIT_KINDS, start=1):
        columns.update(_hit_columns(kind, [list(piece[place].items()) for piece in pieces]))
    columns.update(_way_columns([piece.way for piece in pieces], with_visitors))
    return Block({name: _small(column) for name, column in columns.items()})


def _hit_columns(kind: str, saw: list[list[tuple[int, tuple]]]) -> dict[str, Sequence[int]]:
    """Return the columns of what visits saw of a kind: of each visit [(value, sums)]."""
    lengths, found, owners, having = [], [], [], range(len(saw))
    for rank in range(max(map(len, saw), default=0)):
        having = [owner for owner in having if len(saw[owner]) > rank]
        if having[-1] >= len(having):
            owners = [owner for owner in having for _ in saw[owner][rank:]]
            found += [pair for owner in having for pair in saw[owner][rank:]]
            break
        lengths.append(len(having))
        found += [each[rank] for each in saw[:len(having)]]
    values, sums = zip(*found) if found else ((), ())
    return {kind: values, f"{kind}/lengths": lengths, f"{kind}/owners": owners,
            **{f"{kind}/{name}": column for name, column in zip(_HIT_SUMS, zip(*sums) if sums else [()] * len(_HIT_SUMS))}}


def _way_columns(ways: list[list[tuple[int, int, int]]], with_starts: bool) -> dict[str, Sequence[int]]:
    """Return the columns of the hits of visits; when visits started is only kept where they may be of one visitor."""
    numbers = {saw: number for number, (saw, _) in enumerate(Counter((name, page) for way in ways for name, page, _ in way).most_common())}
    first = min((way[0][2] for way in ways), default=0)
    seconds = [second - before for way in ways for (_, _, second), before in zip(
        way, itertools.chain([first if with_starts else way[0][2]], map(operator.itemgetter(2), way)))]
    return {"way": [numbers[name, page] for way in ways for name, page, _ in way], "way/seconds": seconds,
            "way/name": [name for name, _ in numbers], "way/page": [page for _, page in numbers]}


class Day(NamedTuple):
    """A day as reports add it up: its visits, the seam to the day before as [(sign, block)], and whether days may be added to it."""

    blocks: list[Block]
    seam: list[tuple[int, Block]]
    may_be_added: bool


def read_day(db: sqlite3.Connection, site: Site, day: int) -> Day:
    """Return a day, given by its ordinal, from visits and hits."""
    shares = 1 + count_hits(db, site, day) // READ_HITS
    parts = [_read_share(db, site, day, Share(share, shares)) for share in range(shares)]
    _, start, end = _edges(site, day)
    is_long = db.execute("select 1 from long_epochs where site_id = ? and starts_at < ? and ends_at > ?", (site.id, end >> 16, start >> 16)).fetchone()
    return Day([block for part in parts for block in part.blocks], [each for part in parts for each in part.seam],
               not is_long and all(part.may_be_added for part in parts))


def _edges(site: Site, day: int) -> tuple[int, int, int]:
    """Return the ids between which the hits of the day before a day lie, and those of the day."""
    return tuple(midnight(date.fromordinal(each), site.zone) << 16 for each in (day - 1, day, day + 1))


def count_hits(db: sqlite3.Connection, site: Site, day: int) -> int:
    """Return how many hits a day has, or one more than DAY_HITS where it has more than these."""
    _, start, end = _edges(site, day)
    return db.execute("select count(*) from (select 1 from hits where site_id = ? and id >= ? and id < ? limit ?)",
                      (site.id, start, end, DAY_HITS + 1)).fetchone()[0]


def _read_share(db: sqlite3.Connection, site: Site, day: int, share: Share) -> Day:
    """Return what of a day is of a share of visitors."""
    before, start, end = _edges(site, day)
    pieces = _read_pieces(db, site, start, end, share)
    visits_of = Counter(piece.visit[1] for piece in pieces)
    single, several = [], []
    for piece in pieces:
        (single if visits_of[piece.visit[1]] == 1 else several).append(piece)
    seam, came_before = [], visits_of.keys() & _visitors(db, site.id, before, start, share)
    if came_before:
        visits = {visit_id: row for visit_id, row in _read_visits(db, site.id, before, end, share).items() if row[1] in came_before}
        seam = [(sign, _block(_read_pieces(db, site, low, high, share, visits), with_visitors=True))
                for sign, low, high in ((1, before, end), (-1, before, start), (-1, start, end))]
    apart = visits_of.keys() & _visitors(db, site.id, _edges(site, day - 1)[0], before, share)
    return Day([_block(single, with_visitors=False), _block(several, with_visitors=True)], seam, not apart)


def _visitors(db: sqlite3.Connection, site_id: int, low: int, high: int, share: Share) -> set[int]:
    """Return the visitors of the hits between two ids."""
    rows = db.execute(f"""
        select visitor from visits where site_id = :site and id >= :low and id < :high and {share.test('visitor')} union all
        select visitor from visits where site_id = :site and {share.test('visitor')} and id in (
            select visit_id from hits where site_id = :site and id >= :low and id < :high and visit_id < :low)""",
                      {"site": site_id, "low": low, "high": high, **share._asdict()})
    return {visitor for visitor, in rows}


class Choice:
    """Filters as a choice among the rows of a Block: of visits by what they are, and of hits by the values of one kind."""

    def __init__(self, db: sqlite3.Connection, site: Site, filters: Sequence):
        self._db, self._where = db, Where(Binder(), site, Period(0, 1, site.zone))
        self.kind: str | None = None  # page, name or hostname, where hits are chosen
        self.views_only = self._is_of_views(filters)
        filters = [each for each in filters if not (self.views_only and each == VIEWS)]
        of_hits = [each for each in filters if any(DIMENSIONS[name].column.startswith("h.") for name in filtered_dimensions([each]))]
        if of_hits:
            self.kind = DIMENSIONS[next(filtered_dimensions(of_hits))].column[2:]
        self._tests = [self.compile(each) for each in filters if each not in of_hits]
        self._hit_tests = [self.compile(each) for each in of_hits]

    @staticmethod
    def is_possible(filters: Sequence) -> bool:
        """Return whether filters can be decided column by column: each looks at visits only, or at the one kind that all others do."""
        kinds, views_only = set(), Choice._is_of_views(filters)
        for each in filters:
            names = set(filtered_dimensions([each])) if not views_only or each != VIEWS else set()
            if _has_behaviour(each) or not names <= DIMENSIONS.keys():
                return False
            hit_kinds = {name for name in names if DIMENSIONS[name].column.startswith("h.")}
            if hit_kinds and len(names) > 1:
                return False
            kinds |= hit_kinds
        return len(kinds) <= 1

    @staticmethod
    def _is_of_views(filters: Sequence) -> bool:
        """Return whether filters choose pages, of pageviews only: what a page is seen with tells how many of it are pageviews."""
        return VIEWS in filters and "event:page" in filtered_dimensions(filters)

    @staticmethod
    def kinds_of(filters: Sequence, dimension: str | None = None) -> set[str]:
        """Return the dimensions of hits that must be looked at together to answer this."""
        kept = [each for each in filters if each != VIEWS or not Choice._is_of_views(filters)]
        return {name for name in (*filtered_dimensions(kept), dimension) if name and _hit_kind(name)}

    def counted(self, name: str) -> str:
        """Return which of the sums beside a page holds what counts for `name`."""
        return "pageviews" if self.views_only and name == "events" else name

    def visits(self, block: Block) -> bytes | None:
        """Return for each visit of a block whether it is chosen, 1 or 0; None where all are."""
        return self.mask(self._tests, block.among, len(block)).to_bytes(len(block), "little") if self._tests else None

    def hits(self, block: Block) -> int:
        """Return the same for each of what its visits saw of the kind, as among() does."""
        mask = self.mask(self._hit_tests, lambda _, wanted: block.among(self.kind, wanted), len(block[self.kind]))
        return mask & ~block.among("page/pageviews", _ZERO) if self.views_only else mask

    @staticmethod
    def mask(tests: Sequence[_Test], among: Callable[[str, Wanted], int], count: int) -> int:
        """Return which of so many numbers pass all tests."""
        return functools.reduce(operator.and_, (test(among, count) for test in tests)) if tests else _as_int(b"\1" * count)

    def compile(self, node: list) -> _Test:
        """Return the function that decides a filter."""
        operation, rest = node[0], node[1:]
        if operation == "not":
            inner = self.compile(rest[0])
            return lambda among, count: inner(among, count) ^ _as_int(b"\1" * count)
        if operation in ("and", "or"):
            parts, join = [self.compile(each) for each in rest[0]], operator.and_ if operation == "and" else operator.or_
            return lambda among, count: functools.reduce(join, (part(among, count) for part in parts))
        return self._compile_leaf(operation, rest)

    def _compile_leaf(self, operation: str, rest: list) -> _Test:
        dimension, is_negated, texts = self._where.read_leaf(operation, rest)
        table, column = dimension.column.split(".")
        sql, name = f"select id from texts where id in ({texts})", column
        if table in _TABLES:
            sql, name = f"select id from {_TABLES[table]} where {column} in ({texts})", _TABLES[table][:-1] + "_id"
        passing = Wanted(each for each, in self._db.execute(sql, self._where.values))
        return lambda among, count: among(name, passing) ^ _as_int(b"\1" * count) if is_negated else among(name, passing)


# A filter: given what finds numbers in a column, and how many there are, it gives the mask of those that pass.
_Test = Callable[[Callable[[str, Wanted], int], int], int]
_TABLES = {"c": "clients", "o": "origins"}
_ZERO = Wanted([0])


def _has_behaviour(node: Sequence) -> bool:
    """Return whether has_done or has_not_done stands anywhere in a filter."""
    if node[0] in ("and", "or"):
        return any(map(_has_behaviour, node[1]))
    return node[0] in ("has_done", "has_not_done") or node[0] == "not" and _has_behaviour(node[1])


class Chosen:
    """The visits of a block that a Choice takes, and what of them counts."""

    def __init__(self, block: Block, choice: Choice):
        self.block, self.choice = block, choice
        self.mask = choice.visits(block)
        self._pairs: dict[str, bytes | None] = {}
        self._totals: dict[str, int] = {}
        if choice.kind:
            self.mask = block.gather(choice.kind, self.pairs(choice.kind))
        self.count = len(block) if self.mask is None else self.mask.count(1)

    def pairs(self, kind: str) -> bytes | None:
        """Return which values of a kind count: those of chosen visits that pass themselves; None for all."""
        if kind not in self._pairs:
            spread = None if self.mask is None else self.block.spread(kind, self.mask)
            self._pairs[kind] = spread if kind != self.choice.kind else self._passing(spread)
        return self._pairs[kind]

    def _passing(self, spread: bytes | None) -> bytes:
        """Return which values of the kind that is chosen by pass, of visits that pass themselves."""
        passing = self.choice.hits(self.block)
        return (passing if spread is None else passing & _as_int(spread)).to_bytes(len(self.block[self.choice.kind]), "little")

    def column(self, name: str) -> Sequence[int]:
        """Return a column of the chosen visits."""
        return self.block[name] if self.mask is None else self._get(self.block[name])

    @functools.cached_property
    def _get(self) -> Callable[[Sequence[int]], Sequence[int]]:
        """What takes the chosen visits out of a column."""
        places = list(itertools.compress(range(len(self.block)), self.mask))
        return operator.itemgetter(*places) if len(places) > 1 else lambda column: tuple(column[place] for place in places)

    def total(self, name: str) -> int:
        """Return a sum over the chosen visits."""
        if name not in self._totals:
            self._totals[name] = self._sum(name)
        return self._totals[name]

    def _sum(self, name: str) -> int:
        if name == "visitors" and "visitor" in self.block:
            return len(set(self.column("visitor")))
        if name in ("pageviews", "events") and self.choice.kind:
            return self.block.sum(f"{self.choice.kind}/{self.choice.counted(name)}", self.pairs(self.choice.kind))
        amounts = self.amounts(name)
        return self.count if amounts is None else sum(amounts)

    def amounts(self, name: str) -> Sequence[int] | None:
        """Return what each chosen visit adds to a sum; None where that is 1."""
        if name in ("visits", "visitors") or name == "entries" and self.choice.kind != "page":
            return None
        if self.choice.kind and name in ("pageviews", "events"):
            return self._of_hits(name)
        if self.choice.kind == "page" and name in ("entries", "bounces"):
            entered = self._get(self._entered)
            return entered if name == "entries" else list(map(operator.and_, self.column(name), entered))
        return self.column(name)

    def _of_hits(self, name: str) -> list[int]:
        """Return for each chosen visit the sum over its chosen hits."""
        kind, sums = self.choice.kind, [0] * len(self.block)
        mask = self.pairs(kind)
        for owner, amount in itertools.compress(zip(self.block.owners(kind), self.block[f"{kind}/{self.choice.counted(name)}"]), mask):
            sums[owner] += amount
        return self._get(sums)

    @functools.cached_property
    def _entered(self) -> bytes:
        """Which visits have a chosen hit on the page they entered by."""
        entries, entered, mask = self.block["entry_page"], bytearray(len(self.block)), self.pairs("page")
        for owner, page in zip(itertools.compress(self.block.owners("page"), mask), itertools.compress(self.block["page"], mask)):
            if entries[owner] == page:
                entered[owner] = 1
        return bytes(entered)


def _hit_kind(dimension: str) -> str | None:
    """Return what of hits a dimension looks at; None where it looks at visits."""
    column = "h.hour" if dimension == HOUR else DIMENSIONS[dimension].column
    return column[2:] if column.startswith("h.") else None


class Target:
    """What a report wants of days: sums, by the values of a dimension if there is one, in buckets of days given by ordinals."""

    def __init__(self, dimension: str | None, buckets: tuple[tuple[int, int], ...]):
        self.dimension, self.buckets = dimension, buckets
        self.wanted: set[str] = set()
        self.rolled: Collection[int] = ()  # the days that there are rollups of
        self.sums: list[defaultdict[str, Counter[int]]] = [defaultdict(Counter) for _ in buckets]  # sum → value → how much; the whole is value 0

    @property
    def kind(self) -> str | None:
        """The kind of hits its dimension looks at: page, name, hostname or hour."""
        return _hit_kind(self.dimension) if self.dimension else None

    def seen(self) -> list[tuple[int, int]]:
        """Return [(bucket, value)] where anything was seen."""
        counted = "visitors" if "visitors" in self.wanted else "visits"
        return [(bucket, value) for bucket, sums in enumerate(self.sums) for value, count in sums[counted].items() if count]

    def sums_of(self, bucket: int, value: int) -> dict[str, int]:
        """Return the sums of a value in a bucket."""
        return {name: self.sums[bucket][name][value] for name in self.wanted}


class Scan:
    """Adds up blocks for targets that share their filters: each block is gone through once for all of them."""

    def __init__(self, db: sqlite3.Connection, choice: Choice):
        self._db, self._choice = db, choice
        self._codes: dict[tuple, Counter[int]] = defaultdict(Counter)  # (buckets, bucket, column, sum) → client, origin or page → how much
        self._folds: dict[str, Mapping[int, int]] = {}

    def add(self, block: Block, sign: int, wanted: Sequence[tuple[Target, int]]) -> None:
        """Add what of a block is chosen, or take it away, to buckets of targets."""
        chosen = Chosen(block, self._choice)
        if not chosen.count:
            return
        by_column: dict[tuple, list[Target]] = defaultdict(list)
        for target, bucket in wanted:
            if target.dimension is None:
                self._add_whole(chosen, sign, target, bucket)
            elif target.kind:
                self._add_hits(chosen, sign, target, bucket)
            else:
                by_column[target.buckets, bucket, _visit_column(target.dimension)].append(target)
        for (buckets, bucket, column), targets in by_column.items():
            self._add_visits(chosen, sign, targets, buckets, bucket, column)

    def _add_whole(self, chosen: Chosen, sign: int, target: Target, bucket: int) -> None:
        for name in target.wanted:
            target.sums[bucket][name][0] += sign * chosen.total(name)

    def _add_visits(self, chosen: Chosen, sign: int, targets: list[Target], buckets: tuple, bucket: int, column: str) -> None:
        """Add up by clients, origins or pages first, which several dimensions may share; values of dimensions come at the end."""
        codes, wanted = chosen.column(column), set().union(*(target.wanted for target in targets))
        for name in wanted:
            if name != "visitors" or "visitor" not in chosen.block:
                _add(self._codes[buckets, bucket, column, name], sign, codes, chosen.amounts(name), name)
        if "visitors" in wanted and "visitor" in chosen.block:
            pairs = set(zip(chosen.column("visitor"), codes))
            for target in targets:
                fold = self._fold(target.dimension)
                distinct = pairs if fold is None else {(visitor, fold[code]) for visitor, code in pairs}
                _add(target.sums[bucket]["visitors"], sign, map(operator.itemgetter(1), distinct))

    def _add_hits(self, chosen: Chosen, sign: int, target: Target, bucket: int) -> None:
        kind, block, mask = target.kind, chosen.block, chosen.pairs(target.kind)

        def pick(column: Sequence[int]) -> Sequence[int]:
            return column if mask is None else list(itertools.compress(column, mask))
        values = pick(block[kind])
        owners = functools.cache(lambda: list(pick(block.owners(kind))))
        for name in target.wanted:
            if name == "visitors" and "visitor" in block:
                distinct = set(zip(map(block["visitor"].__getitem__, owners()), values))
                _add(target.sums[bucket][name], sign, map(operator.itemgetter(1), distinct))
            else:
                amounts = self._hit_amounts(self._choice.counted(name), block, kind, pick, values, owners)
                _add(target.sums[bucket][name], sign, values, amounts, name)

    @staticmethod
    def _hit_amounts(name: str, block: Block, kind: str, pick: Callable, values: Sequence[int], owners: Callable) -> Iterable[int] | None:
        """Return what each value of a kind adds to a sum; None where that is 1."""
        if name in ("visits", "visitors") or name == "entries" and kind != "page":
            return None
        if name in ("entries", "bounces"):
            entered = map(operator.eq, values, map(block["entry_page"].__getitem__, owners())) if kind == "page" else itertools.repeat(True)
            return entered if name == "entries" else map(operator.and_, entered, map(block["bounces"].__getitem__, owners()))
        if name == "duration":
            return map(block["duration"].__getitem__, owners())
        if name == "viewed":
            return map(bool, pick(block[f"{kind}/pageviews"]))
        if name == "scrolled":
            return map(bool, pick(block[f"{kind}/depth"]))
        if name == "depth":
            return (max(0, depth - 1) for depth in pick(block[f"{kind}/depth"]))  # 0 says that it was not told
        return pick(block[f"{kind}/{name}"])

    def _fold(self, dimension: str) -> Mapping[int, int] | None:
        """Return which value each client or origin has of a dimension; None where the column holds values."""
        table, column = DIMENSIONS[dimension].column.split(".")
        if table not in _TABLES:
            return None
        if dimension not in self._folds:
            self._folds[dimension] = dict(self._db.execute(f"select id, {column} from {_TABLES[table]}"))
        return self._folds[dimension]

    def finish(self, targets: Iterable[Target]) -> None:
        """Put what was added up by clients, origins and pages under the values of the dimensions."""
        for target in targets:
            if target.dimension is None or target.kind:
                continue
            fold, column = self._fold(target.dimension), _visit_column(target.dimension)
            for bucket, sums in enumerate(target.sums):
                for name in target.wanted:
                    for code, amount in self._codes[target.buckets, bucket, column, name].items():
                        sums[name][code if fold is None else fold[code]] += amount


def _visit_column(dimension: str) -> str:
    table, column = DIMENSIONS[dimension].column.split(".")
    return _TABLES[table][:-1] + "_id" if table in _TABLES else column


def _add(counter: Counter[int], sign: int, keys: Iterable[int], amounts: Iterable[int] | None = None, name: str = "") -> None:
    """Add to a Counter, under each key, its amount or 1, of the sum `name`; a sign of -1 takes away."""
    if amounts is not None and name in _AT_MOST_ONE:
        keys, amounts = itertools.compress(keys, amounts), None  # counted in C
    if amounts is None:
        counter.update(keys) if sign > 0 else counter.subtract(keys)
    else:
        for key, amount in zip(keys, amounts):
            counter[key] += sign * amount


class Days:
    """Reads sealed days, and the few days of a report that are not, for all reports of one request."""

    def __init__(self, db: sqlite3.Connection, site: Site, check_time: Callable[[], None] = lambda: None):
        self._db, self._site, self._check_time = db, site, check_time
        self._targets: dict[tuple, Target] = {}
        self._read: dict[int, Day] = {}
        self._hits: dict[int, int] = {}
        first, last = (db.execute(f"select {edge}(id) from hits where site_id = ?", (site.id,)).fetchone()[0] for edge in ("min", "max"))
        self._known = range(0) if first is None else range(*(
            local_date(each >> 16, site.zone).toordinal() + more for each, more in ((first, 0), (last, 1))))
        self._sealed = {day: (state, wide) for day, state, wide in db.execute(
            "select day, state, wide from days where site_id = ? and state in (1, 2)", (site.id,))}
        self.span: tuple[int, int] | None = (2 ** 31, 0)  # first and last day asked for, None when one of them was not sealed

    def want(self, filters: Sequence, dimension: str | None, sums: Sequence[str], buckets: Sequence[Bucket]) -> Target | None:
        """Return the Target that read() will fill, or None where days cannot answer this; the same one for the same question.

        The buckets are of whole days.
        """
        days = tuple((local_date(bucket.start, self._site.zone).toordinal(), local_date(bucket.end - 1, self._site.zone).toordinal())
                     for bucket in buckets)
        self._note(days[0][0], days[-1][1])
        wanted = {*sums} if "visitors" in sums else {"visits", *sums}
        if self._is_sooner_counted(days[0][0], days[-1][1]):
            return None
        rolled = self._rolled(filters, dimension, days)
        is_noted = wanted <= GOAL_SUMS and all(day in rolled for day in self._within(days[0][0], days[-1][1]))
        if filters and not is_noted and (not Choice.is_possible(filters) or self._needs_hits(filters, dimension, wanted)):
            return None
        added = [(days[0][0], days[-1][1])] if dimension == HOUR else days  # of which each bucket is a day that others are added to
        if not all(self._may_be_added(*each) for each in added) or self._unsealed(days[0][0], days[-1][1]) is None:
            return None
        if not filters and self._is_wide(dimension, days) and wanted & {*_UNPACKED, "exits"}:
            return None
        key = json.dumps(filters), dimension, days
        target = self._targets.setdefault(key, Target(dimension, days))
        target.rolled = rolled
        target.wanted |= wanted
        return target

    def _rolled(self, filters: Sequence, dimension: str | None, buckets: Sequence[tuple[int, int]]) -> Collection[int]:
        """Return the days that there are rollups of: of all that was seen, or of what reaches a goal if it is one that filters stand for."""
        if not filters:
            return () if self._is_wide(dimension, buckets) else self._sealed
        if dimension:
            return ()
        return {day for day, in self._db.execute("""
            select d.day from days d cross join rollups r where d.site_id = :site and d.day between :first and :last and d.state = 1
                and r.site_id = d.site_id and r.days = 1 and r.day = d.day and r.dimension = :dimension and r.seam = 0 and r.value = :goal""", {
            "site": self._site.id, "first": buckets[0][0], "last": buckets[-1][1], "dimension": GOAL_PLACE, "goal": goal_key(filters)})}

    def _within(self, first: int, last: int) -> range:
        """Return those of a stretch of days of which there may be hits."""
        return range(max(first, self._known.start), min(last + 1, self._known.stop))

    def _note(self, first: int, last: int) -> None:
        if self.span and self._known and all(day in self._sealed for day in range(max(first, self._known.start), last + 1)):
            self.span = min(self.span[0], first), max(self.span[1], last)
        else:
            self.span = None

    @staticmethod
    def _needs_hits(filters: Sequence, dimension: str | None, wanted: set[str]) -> bool:
        """Return whether a filtered question asks for what columns do not tell."""
        looked_at = Choice.kinds_of(filters, dimension)
        return bool(len(looked_at) > 1 or wanted & _UNPACKED or looked_at and "exits" in wanted)

    def _unsealed(self, first: int, last: int) -> list[int] | None:
        """Return the days with hits that are not sealed; None where they are too many."""
        missing = [day for day in self._within(first, last) if day not in self._sealed]
        return missing if len(missing) <= LIVE_DAYS and not any(self._count(day) > DAY_HITS for day in missing) else None

    def _is_sooner_counted(self, first: int, last: int) -> bool:
        """Return whether hits of so few days are counted sooner than a large one that is not sealed is read."""
        days = self._within(first, last)
        return len(days) <= COUNTED_DAYS and any(self._count(day) > READ_HITS for day in days if day not in self._sealed)

    def _count(self, day: int) -> int:
        if day not in self._hits:
            self._hits[day] = count_hits(self._db, self._site, day)
        return self._hits[day]

    def _may_be_added(self, first: int, last: int) -> bool:
        """Return whether days may be added up; one day alone always may."""
        if first == last:
            return True
        unsealed = self._unsealed(first, last)
        return unsealed is not None and all(self._day(day).may_be_added for day in unsealed) and all(
            self._sealed[day][0] == 1 for day in self._within(first, last) if day in self._sealed)

    def _is_wide(self, dimension: str | None, buckets: Sequence[tuple[int, int]]) -> bool:
        bit = 1 << _place(dimension)
        return any(wide & bit for day, (_, wide) in self._sealed.items() if buckets[0][0] <= day <= buckets[-1][1])

    def _day(self, day: int) -> Day:
        """Return a day that is not sealed, read from its hits."""
        if day not in self._read:
            self._check_time()
            self._read[day] = read_day(self._db, self._site, day)
        return self._read[day]

    def read(self) -> None:
        """Fill all targets: roll up what can be, then go through each day once for all that is left."""
        by_filters: dict[str, list[Target]] = defaultdict(list)
        for (filters, dimension, days), target in self._targets.items():
            by_filters[filters].append(target)
        scans = []
        for filters, targets in by_filters.items():
            for target in targets:
                if target.rolled:
                    self._add_rollups(target, None if filters == "[]" else goal_key(json.loads(filters)))
            if wanted := self._wanted(targets):
                scans.append((Scan(self._db, Choice(self._db, self._site, json.loads(filters))), wanted))
        self._scan(scans)
        for scan, wanted in scans:
            scan.finish({id(target): target for each in wanted.values() for target, _ in each}.values())

    def _wanted(self, targets: list[Target]) -> dict[int, list[tuple[Target, int]]]:
        """Return which buckets of targets each day belongs to, but for those that rollups have served."""
        wanted: dict[int, list[tuple[Target, int]]] = defaultdict(list)
        for target in targets:
            for bucket, (first, last) in enumerate(target.buckets):
                for day in self._within(first, last):
                    if day not in target.rolled:
                        wanted[day].append((target, bucket))
        return wanted

    def _scan(self, scans: list[tuple[Scan, dict[int, list[tuple[Target, int]]]]]) -> None:
        for day in sorted({day for _, wanted in scans for day in wanted}):
            with_before = [[(target, bucket) for target, bucket in wanted.get(day, ()) if target.buckets[bucket][0] < day] for _, wanted in scans]
            blocks, seam = self._parts(day, any(with_before))
            for block in blocks:
                self._add(block, 1, [(scan, wanted.get(day)) for scan, wanted in scans])
            for sign, block in seam:
                self._add(block, sign, [(scan, joined) for (scan, _), joined in zip(scans, with_before)])

    def _add(self, block: Block, sign: int, scans: Iterable[tuple[Scan, Sequence[tuple[Target, int]] | None]]) -> None:
        for scan, wanted in scans:
            self._check_time()
            if wanted:
                scan.add(block, sign, wanted)

    def ways(self, period: Period) -> Iterator[tuple[int, Block]] | None:
        """Return (sign, block) of all that adds up to a period, each visitor's visits in one block; None where days cannot be added up."""
        first, last = period.first.toordinal(), period.last.toordinal()
        if not period.is_whole_days or self._is_sooner_counted(first, last) or self._unsealed(first, last) is None or not self._may_be_added(first, last):
            return None
        return self._blocks(first, last)

    def _blocks(self, first: int, last: int) -> Iterator[tuple[int, Block]]:
        for day in range(max(first, self._known.start), min(last + 1, self._known.stop)):
            self._check_time()
            blocks, seam = self._parts(day, day > first)
            yield from ((1, block) for block in blocks)
            yield from seam

    def _parts(self, day: int, with_seam: bool) -> tuple[Iterable[Block], list[tuple[int, Block]]]:
        if day not in self._sealed:
            read = self._day(day)
            return read.blocks, read.seam if with_seam else []
        parts = self._db.execute("select part, data from columns where site_id = ? and day = ? and (part <> ? or ?)",
                                 (self._site.id, day, SEAM, with_seam)).fetchall()
        # One by one: what is unpacked of a block goes with it.
        return (Block.unpack(data) for part, data in parts if part != SEAM), [each for part, data in parts if part == SEAM for each in unpack_seam(data)]

    def _add_rollups(self, target: Target, goal: int | None) -> None:
        """Add what is noted of sealed days, by whole months where there are such."""
        spans = [(bucket, days, day, int(day > first)) for bucket, (first, last) in enumerate(target.buckets)
                 for days, day in self._spans(first, last, target.rolled, self._months if goal is None else set())]
        place, value = (_place(target.dimension), "r.value") if goal is None else (GOAL_PLACE, ":goal")
        names = sorted(target.wanted)
        rows = self._db.execute(f"""
            select json_extract(j.value, '$[0]') as bucket, {'r.value' if goal is None else '0'}, {', '.join(f'sum(r.{name})' for name in names)}
            from json_each(:spans) j cross join rollups r
            where r.site_id = :site and r.days = json_extract(j.value, '$[1]') and r.day = json_extract(j.value, '$[2]')
                and r.dimension = :dimension and r.seam in (0, json_extract(j.value, '$[3]')) and r.value = {value}
            group by 1, 2""", {"spans": json.dumps(spans), "site": self._site.id, "dimension": place, "goal": goal})
        for bucket, value, *amounts in rows:
            for name, amount in zip(names, amounts):
                target.sums[bucket][name][value] += amount

    def _spans(self, first: int, last: int, rolled: Collection[int], months: set[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield (length, first day) of what rollups there are of a stretch of days: months, and days where a month would be too long."""
        day, stop = self._within(first, last).start, self._within(first, last).stop
        while day < stop:
            length = month_length(day)
            is_month = day + length <= stop and all(each in rolled for each in range(day, day + length)) and (length, day) in months
            if is_month:
                yield length, day
            elif day in rolled:
                yield 1, day
            day += length if is_month else 1

    @functools.cached_property
    def _months(self) -> set[tuple[int, int]]:
        """The months that there are rollups of."""
        return set(self._db.execute("select days, day from rollups where site_id = ? and days > 1 and dimension = 0 group by days, day", (self._site.id,)))


def _place(dimension: str | None) -> int:
    """Return the number that stands for a dimension in `rollups`. Hours are never added up to months, which have all kinds of weekdays."""
    return 0 if dimension is None else _HOUR_PLACE if dimension == HOUR else 1 + list(DIMENSIONS).index(dimension)


_HOUR_PLACE = 62  # out of the way of more dimensions, and still a bit of `days.wide`
GOAL_PLACE = 61  # the totals of what reaches a goal, as `value` the key of what it stands for
GOAL_SUMS = {"visitors", "visits", "pageviews", "events", "entries", "bounces", "duration"}


def goal_key(filters: Sequence) -> int:
    """Return a number that stands for filters: when a goal changes, so does its key, and what was noted of it is not found any more."""
    return int.from_bytes(hashlib.blake2b(json.dumps(filters).encode(), digest_size=8).digest(), "big", signed=True)


def month_length(day: int) -> int:
    """Return how many days the month has that begins on a day, given by its ordinal; 0 where none begins."""
    first = date.fromordinal(day)
    return _add_months(first, 1).toordinal() - day if first.day == 1 else 0


def pack_seam(seam: list[tuple[int, Block]]) -> bytes:
    """Return a seam as bytes: many small columns together, which compresses better than each alone."""
    parts = [(sign, block.pack()) for sign, block in seam]
    return zlib.compress(json.dumps([(sign, base64.b64encode(data).decode()) for sign, data in parts]).encode())


def unpack_seam(data: bytes) -> list[tuple[int, Block]]:
    """Return the seam of bytes."""
    return [(sign, Block.unpack(base64.b64decode(packed))) for sign, packed in json.loads(zlib.decompress(data))]


def earliest_day(db: sqlite3.Connection, site: Site, now: float) -> int | None:
    """Return the first day that may be sealed: the one of the first hit; one whose night before is being purged changes still."""
    first, = db.execute("select min(id) from hits where site_id = ?", (site.id,)).fetchone()
    if first is None:
        return None
    day = local_date(first >> 16, site.zone).toordinal()
    kept = local_date(now, site.zone).toordinal() - site.retention_days if site.retention_days else 0
    return day if day >= kept else kept + 1


def days_to_seal(db: sqlite3.Connection, site: Site, now: float) -> list[int]:
    """Return the days, by their ordinals, that are over for all their visits and not sealed."""
    first = earliest_day(db, site, now)
    if first is None:
        return []
    live, = db.execute("select min(id) from visits where site_id = ? and live = 1", (site.id,)).fetchone()
    moment = now - VISIT_TIMEOUT - 1 if live is None else min(now - VISIT_TIMEOUT - 1, live >> 16)
    sealed = {day for day, in db.execute("select day from days where site_id = ? and state in (1, 2, 4)", (site.id,))}
    return [day for day in range(first, local_date(moment, site.zone).toordinal()) if day not in sealed]


def seal_days(store: Store, site: Site, now: float, deadline: float = math.inf) -> int:
    """Seal the days of a site that are over, and roll up its months; return how many days that were.

    A day that is written to meanwhile is left for the next time, and so is what was not begun by `deadline`, in monotonic seconds.
    """
    with store.snapshot() as db:
        days = days_to_seal(db, site, now)
    if days:
        seal = secrets.randbits(62)
        store.transact(lambda db: _insert(db, "days", ("site_id", "day", "seal", "state"), [(site.id, day, seal, 0) for day in days],
                                          "on conflict (site_id, day) do update set seal = excluded.seal, state = 0"))
        writing: list[Future] = []
        for number, day in enumerate(days):
            if time.monotonic() > deadline:
                days = days[:number]
                break
            writing.append(store.submit(_write_sealed, (site.id, day, seal, *_read_to_seal(store, site, day))))
            if len(writing) > 2:  # the next are read while these are written
                store.wait(writing.pop(0), WRITE_TIMEOUT)
        for done in writing:
            store.wait(done, WRITE_TIMEOUT)
        _roll_months(store, site, days)
    return len(days)


def _read_to_seal(store: Store, site: Site, day: int) -> tuple:
    """Return (state, wide, parts, rollups) of a day, as _write_sealed() writes them."""
    with store.snapshot() as db:
        if count_hits(db, site, day) > DAY_HITS:
            return 4, 0, [], []
        read = read_day(db, site, day)
        rows, wide = _rollups(db, site, read)
    parts = [(place + (place >= SEAM), block.pack()) for place, block in enumerate(read.blocks) if len(block)]
    parts += [(SEAM, pack_seam(read.seam))] if read.seam else []
    return 1 if read.may_be_added else 2, wide, parts, rows


def _write_sealed(db: sqlite3.Connection, days: Sequence[tuple]) -> list[None]:
    """Write days that were read, but for those that were written to, or sealed by another process, since."""
    for site_id, day, seal, state, wide, parts, rows in days:
        if db.execute("update days set state = ?, wide = ? where site_id = ? and day = ? and seal = ? and state = 0",
                      (state, wide, site_id, day, seal)).rowcount:
            delete_sealed(db, site_id, day)
            db.executemany("insert into columns (site_id, day, part, data) values (?, ?, ?, ?)", ((site_id, day, *part) for part in parts))
            _insert(db, "rollups", _ROLLUP_COLUMNS, ((site_id, 1, day, *row) for row in rows))
    return [None] * len(days)


_ROLLUP_COLUMNS = ("site_id", "days", "day", "dimension", "seam", "value", *SUMS)


def _rollups(db: sqlite3.Connection, site: Site, read: Day) -> tuple[list[tuple], int]:
    """Return (rows of `rollups` from their dimension on, the bits of dimensions that have too many values)."""
    rows, wide = [], 0
    for is_seam, parts in ((0, [(1, block) for block in read.blocks]), (1, read.seam)):
        targets = [Target(dimension, ((0, 0),)) for dimension in (None, *DIMENSIONS, *(() if is_seam else (HOUR,)))]
        scan = Scan(db, Choice(db, site, []))
        for target in targets:
            target.wanted = set(SUMS) - ({*_UNPACKED, "viewed"} if target.kind is None else set())
        for sign, block in parts:
            scan.add(block, sign, [(target, 0) for target in targets])
        scan.finish(targets)
        for target in targets:
            place, sums = _place(target.dimension), target.sums[0]
            values = sorted(set().union(*sums.values()))
            if not is_seam and len(values) > WIDE:
                wide |= 1 << place
            if not wide & 1 << place:
                found = ((value, *(sums[name][value] for name in SUMS)) for value in values)
                rows += [(place, is_seam, *row) for row in found if any(row[1:])]
    return rows, wide


def delete_sealed(db: sqlite3.Connection, site_id: int, day: int) -> None:
    """Delete what was kept of a sealed day, and of its month."""
    first = date.fromordinal(day).replace(day=1).toordinal()
    db.execute("delete from columns where site_id = ? and day = ?", (site_id, day))
    db.execute("delete from rollups where site_id = ? and days = 1 and day = ?", (site_id, day))
    db.execute("delete from rollups where site_id = ? and days = ? and day = ?", (site_id, month_length(first), first))


def _roll_months(store: Store, site: Site, days: Sequence[int]) -> None:
    """Add up the months that are sealed as a whole now that these days are."""
    for first in sorted({date.fromordinal(day).replace(day=1).toordinal() for day in days}):
        store.transact(lambda db: _roll_month(db, site.id, first))


def _roll_month(db: sqlite3.Connection, site_id: int, first: int) -> None:
    length = month_length(first)
    sealed, wide = db.execute("select count(*), json_group_array(wide) from days where site_id = ? and day >= ? and day < ? and state = 1",
                              (site_id, first, first + length)).fetchone()
    if sealed == length:
        skipped = functools.reduce(operator.or_, json.loads(wide))
        kept = [place for place in range(1 + len(DIMENSIONS)) if not skipped & 1 << place]
        db.execute(f"""
            insert or replace into rollups ({', '.join(_ROLLUP_COLUMNS)})
            select site_id, :length, :first, dimension, seam and day = :first as opens, value, {', '.join(f'sum({name})' for name in SUMS)}
            from rollups where site_id = :site and days = 1 and day >= :first and day < :first + :length
                and dimension in (select value from json_each(:kept)) group by dimension, opens, value""",
                   {"site": site_id, "first": first, "length": length, "kept": json.dumps(kept)})


# ---- reports ---------------------------------------------------------------------------------------------------------
# A report looks at the hits that lie in the period and pass the filters. `seen` has one row for each visit among them (in each
# group, where there are dimensions), and every metric is an aggregate over `seen`.

REPORT_SECONDS = 60.0
MAX_ROWS = 10_000
MAX_QUERIES = 50  # in one request


@dataclass(frozen=True)
class Metric:
    """A number to report.

    `compute` makes it of the SUMS that it `needs`; `empty` is its value where nothing was seen; `in_points` says that it is a
    percentage, whose change is told as a difference; `needs_page` that it only has a meaning for single pages. Where it is a
    share, `share_of` says of whose visitors: those of all "rows", or with the filters that name goals or properties left out, of
    the whole "period" or of each "group". These are counted beside it, and given to `compute` as well. `money_per` says that it is
    revenue, of "all", per "order" or per "visitor": a mapping from currencies, which are never added up, to exact decimals.
    """

    label: str
    needs: tuple[str, ...]
    compute: Callable[..., float | None]
    empty: float | None = 0
    in_points: bool = False
    needs_page: bool = False
    share_of: str = ""
    money_per: str = ""


def _ratio(part: float, whole: float, nothing: float | None = None) -> float | None:
    return round(part / whole, 2) if whole else nothing


def _share(visitors: int, whole: int) -> float:
    return _ratio(100 * visitors, whole, 0)


METRICS = {
    "visitors": Metric("Visitors", ("visitors",), int),
    "visits": Metric("Visits", ("visits",), int),
    "pageviews": Metric("Pageviews", ("pageviews",), int),
    "events": Metric("Events", ("events",), int),
    "views_per_visit": Metric("Views per visit", ("pageviews", "visits"), _ratio),
    # By page, of the visits that entered there; of all where no page is asked for, since then all have entered.
    "bounce_rate": Metric("Bounce rate", ("bounces", "entries"), lambda bounces, entries: _ratio(100 * bounces, entries, 0), in_points=True),
    "visit_duration": Metric("Visit duration", ("duration", "visits"), _ratio, None),
    "percentage": Metric("Percentage", ("visitors",), _share, in_points=True, share_of="rows"),
    "conversion_rate": Metric("Conversion rate", ("visitors",), _share, in_points=True, share_of="period"),
    "group_conversion_rate": Metric("Conversion rate of the group", ("visitors",), _share, in_points=True, share_of="group"),
    "total_revenue": Metric("Revenue", ("visitors",), dict, money_per="all"),
    "average_revenue": Metric("Average order", ("visitors",), dict, money_per="order"),
    "revenue_per_visitor": Metric("Revenue per visitor", ("visitors",), dict, money_per="visitor"),
    "scroll_depth": Metric("Scroll depth", ("depth", "scrolled"), _ratio, None, in_points=True, needs_page=True),
    "time_on_page": Metric("Time on page", ("engaged", "viewed"), lambda engaged, viewed: _ratio(engaged / 1000, viewed), None, needs_page=True),
    "exit_rate": Metric("Exit rate", ("exits", "pageviews"), lambda exits, pageviews: _ratio(100 * exits, pageviews), None, in_points=True),
}
# Revenue: {currency: (sum in its minor unit, how many amounts that is of)}. How a decimal text is made of it, or none where it cannot be.
Revenue = Mapping[str, tuple[int, int]]


def decimal_text(amount: int, digits: int) -> str:
    """Return an amount in minor units as people write it, with all its digits: exact, however large."""
    sign, text = "-" * (amount < 0), f"{abs(amount):0{digits + 1}d}"
    return sign + (f"{text[:-digits]}.{text[-digits:]}" if digits else text)


def _divided(amount: int, count: int) -> int:
    """Return a quotient rounded to a whole number, halves to the even one."""
    return round(Fraction(amount, count))


def _money(per: str, revenue: Revenue, visitors: int) -> dict[str, str]:
    """Return what a metric of revenue shows. Per visitor it has two more digits: that may be a fraction of the smallest coin."""
    shown = {}
    for currency, (amount, count) in sorted(revenue.items()):
        digits = MINOR_DIGITS.get(currency, 2)
        if per == "visitor":
            shown[currency] = decimal_text(_divided(100 * amount, visitors), digits + 2)
        else:
            shown[currency] = decimal_text(_divided(amount, count) if per == "order" else amount, digits)
    return shown


COMPARISON_MODES = ("previous_period", "year_over_year", "custom")


@dataclass(frozen=True)
class Query:
    """What a body of /api/v2/query asks, checked. `order_by` is complete: it leaves no two rows equal.

    `filters` has what goals and segments stand for in the place of their names, `asked` those as they were given, and
    `unconditional` those that a conversion rate leaves in force for the visitors it is of.
    """

    metrics: tuple[str, ...]
    dimensions: tuple[str, ...]
    date_range: Any
    filters: tuple
    order_by: tuple[tuple[str, str], ...]
    include: Mapping[str, Any]
    limit: int
    offset: int
    asked: tuple = ()
    unconditional: tuple = ()
    goals: Mapping[str, tuple] = field(default_factory=dict)

    @property
    def time_dimension(self) -> str | None:
        """The time dimension among the dimensions, if there is one."""
        return next((name for name in self.dimensions if name in TIME_DIMENSIONS), None)

    @property
    def by_page(self) -> bool:
        """Whether it looks at single pages, so that a bounce counts for the page it happened on."""
        return "event:page" in self.dimensions or "event:page" in filtered_dimensions(self.filters)


_QUERY_KEYS = {"site_id", "metrics", "date_range", "dimensions", "filters", "order_by", "include", "pagination"}
_INCLUDE_KEYS = {"imports", "time_labels", "total_rows", "trim_relative_date_range", "comparisons"}


def read_query(body: Any, definitions: Definitions = Definitions()) -> Query:
    """Return the Query of a body in Plausible's Stats API v2. Raises InvalidInput, which names the field.

    Source: https://plausible.io/docs/stats-api
    """
    if unknown := set(body) - _QUERY_KEYS:
        raise InvalidInput.of(sorted(unknown)[0], f"is not known; a query has {', '.join(sorted(_QUERY_KEYS))}")
    metrics = _read_names(body, "metrics", METRICS, least=1)
    dimensions = _read_names(body, "dimensions")
    for name in dimensions:
        if name not in (*TIME_DIMENSIONS, GOAL):
            dimension_of(name)
    if sum(name in TIME_DIMENSIONS for name in dimensions) > 1:
        raise InvalidInput.of("dimensions", "may have one time dimension")
    limit, offset = _read_pagination(body.get("pagination"))
    filters = read_filters(body.get("filters"), definitions)
    asked = tuple(body.get("filters") or ())
    unconditional = [each for each in definitions.expand(asked, names=[SEGMENT]) if not _is_of_goal(each)]
    goals = {name: definitions.expand([["is", GOAL, [name]]]) for name in definitions.goals} if GOAL in dimensions else {}
    query = Query(metrics, dimensions, body.get("date_range"), filters, _read_order(body.get("order_by"), metrics, dimensions),
                  _read_include(body.get("include")), limit, offset, asked, definitions.expand(unconditional), goals)
    _check_metrics(query)
    return query


def _is_of_goal(node: list) -> bool:
    """Return whether a filter says which conversions count, rather than whose visits are looked at."""
    return any(name == GOAL or name.startswith(_PROP) for name in filtered_dimensions([node]))


def _check_metrics(query: Query) -> None:
    """Raise InvalidInput where a metric has no meaning in a query."""
    for name in query.metrics:
        if METRICS[name].needs_page and not query.by_page:
            raise InvalidInput.of("metrics", f"{name} needs an event:page dimension or filter")
        if METRICS[name].share_of in ("period", "group") and GOAL not in query.dimensions and query.unconditional == query.filters:
            raise InvalidInput.of("metrics", f"{name} needs an event:goal dimension or filter")
    if "percentage" in query.metrics and (not query.dimensions or GOAL in query.dimensions):
        raise InvalidInput.of("metrics", "percentage needs a dimension other than event:goal")


def _read_names(body: Mapping, name: str, known: Iterable[str] | None = None, least: int = 0) -> tuple[str, ...]:
    values = [] if body.get(name) is None else body[name]
    if not isinstance(values, list) or not least <= len(values) <= 20 or not all(isinstance(each, str) for each in values):
        raise InvalidInput.of(name, f"must be a list of {least} to 20 names")
    if len(set(values)) < len(values):
        raise InvalidInput.of(name, "has a name twice")
    for value in values:
        if known is not None and value not in known:
            raise InvalidInput.of(name, f"{value!r} is not known; there are {', '.join(known)}")
    return tuple(values)


def read_filters(value: Any, definitions: Definitions = Definitions()) -> tuple:
    """Return filters as the compiler takes them: what goals and segments stand for in the place of their names. Raises InvalidInput."""
    if value is not None and not isinstance(value, list):
        raise InvalidInput.of("filters", "must be a list")
    filters = definitions.expand(value or [])
    # Compiled once for its complaints: what is refused is refused before anything is looked up.
    Where(Binder(), _NOWHERE, Period(0, 1, zoneinfo.ZoneInfo("UTC"))).compile(filters)
    for text in set(_patterns(list(filters), definitions)):
        _check_pattern("filters", text)
    return filters


_NOWHERE = Site(0, "", "UTC", (), "standard", 24, 0, "paranoid")


def _read_pagination(value: Any) -> tuple[int, int]:
    form = Form(value if value is not None else {})
    limit, offset = form.integer("limit", least=1, most=MAX_ROWS), form.integer("offset", least=0, most=2 ** 53)
    form.check()
    return limit or MAX_ROWS, offset or 0


def _read_order(value: Any, metrics: Sequence[str], dimensions: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the order asked for, or the usual one, made complete by the dimensions."""
    if value is not None and not (isinstance(value, list) and all(
            isinstance(pair, list) and len(pair) == 2 and pair[0] in (*metrics, *dimensions) and pair[1] in ("asc", "desc") for pair in value)):
        raise InvalidInput.of("order_by", "must be a list of [metric or dimension of this query, \"asc\" or \"desc\"]")
    time_first = [(name, "asc") for name in dimensions if name in TIME_DIMENSIONS]
    asked = [tuple(pair) for pair in value or [*time_first, (metrics[0], "desc")]]
    return (*asked, *((name, "asc") for name in dimensions if name not in dict(asked)))


def _read_include(value: Any) -> Mapping[str, Any]:
    include = {} if value is None else value
    if not isinstance(include, dict) or set(include) - _INCLUDE_KEYS:
        raise InvalidInput.of("include", f"must be an object with some of {', '.join(sorted(_INCLUDE_KEYS))}")
    for name in _INCLUDE_KEYS - {"comparisons"}:
        if not isinstance(include.get(name, False), bool):
            raise InvalidInput.of("include", f"{name} must be true or false")
    comparisons = include.get("comparisons")
    if comparisons is not None:
        if not isinstance(comparisons, dict) or comparisons.get("mode") not in COMPARISON_MODES or \
                not isinstance(comparisons.get("match_day_of_week", False), bool):
            raise InvalidInput.of("include", f"comparisons must have a mode ({', '.join(COMPARISON_MODES)}), and may have date_range "
                                  "and match_day_of_week")
        if comparisons["mode"] == "custom" and not isinstance(comparisons.get("date_range"), list):
            raise InvalidInput.of("include", "comparisons of mode custom must have a date_range of two dates")
    return include


Row = tuple[tuple[str, ...], list]  # (dimension values, metric values)


def run_query(db: sqlite3.Connection, site: Site, body: Mapping[str, Any], now: float) -> dict:
    """Answer a body of /api/v2/query; returns {"results", "meta", "query"}. Raises InvalidInput."""
    return run_queries(db, site, [body], now)[0][0]


def run_queries(db: sqlite3.Connection, site: Site, bodies: Sequence[Mapping[str, Any]], now: float, seconds: float = math.inf,
                definitions: Definitions = Definitions()) -> tuple[list[dict], tuple[int, int] | None]:
    """Answer several bodies in one pass over the days that they share. Raises InvalidInput, and Busy after so many seconds.

    Returns also the first and last day that the answers are about, by their ordinals, if all of these are sealed.
    """
    deadline = time.monotonic() + seconds

    def check_time() -> None:
        if time.monotonic() > deadline:
            raise Busy(too_long(seconds))
    days = Days(db, site, check_time)
    answers = []
    for body in bodies:
        check_time()  # patterns are compiled here, and there may be many
        answers.append(Answer(db, site, read_query(body, definitions), now))
        answers[-1].plan(days)
    days.read()
    return [answer.as_json() for answer in answers], days.span


class Answer:
    """What a query is answered with: its report, and perhaps the one to compare it with."""

    def __init__(self, db: sqlite3.Connection, site: Site, query: Query, now: float):
        self.site, self.query = site, query
        self.period = read_period(query.date_range, site.zone, now, lambda: _earliest(db, site))
        make = GoalsReport if GOAL in query.dimensions else Report
        self.report = make(db, site, query, self.period, now)
        self.other = None
        if spec := query.include.get("comparisons"):
            custom = _custom_period(spec["date_range"], site.zone) if spec["mode"] == "custom" else None
            period = comparison_period(self.period, spec["mode"], custom, spec.get("match_day_of_week", False), now)
            self.other = make(db, site, query, period, now, self.report.interval)  # days beside days, however long it is

    def plan(self, days: Days) -> None:
        """Ask sealed days for what they can answer of this."""
        for report in filter(None, (self.report, self.other)):
            report.plan(days)

    def as_json(self) -> dict:
        """Return {"results", "meta", "query"}."""
        query, report = self.query, self.report
        rows, total_rows = report.first_rows(query.offset + query.limit)
        results = [{"dimensions": list(dimensions), "metrics": metrics} for dimensions, metrics in rows[query.offset:query.offset + query.limit]]
        if self.other:
            report.compare(results, self.other)
        meta: dict[str, Any] = {}
        if query.include.get("time_labels"):
            meta["time_labels"] = [bucket.label for bucket in report.buckets] if query.time_dimension else []
        if query.include.get("total_rows"):
            meta["total_rows"] = total_rows
        asked = {"site_id": self.site.domain, "metrics": query.metrics, "date_range": self.period.iso(), "dimensions": query.dimensions,
                 "filters": query.asked, "order_by": query.order_by, "include": query.include,
                 "pagination": {"limit": query.limit, "offset": query.offset}}
        return {"results": results, "meta": meta, "query": asked}


def _earliest(db: sqlite3.Connection, site: Site) -> int | None:
    newest, = db.execute("select min(id) from hits where site_id = ?", (site.id,)).fetchone()
    return None if newest is None else newest >> 16


class Report:
    """A query about one period, being answered from one snapshot of the database."""

    def __init__(self, db: sqlite3.Connection, site: Site, query: Query, period: Period, now: float, interval: str | None = None):
        self.db, self.site, self.query, self.period, self.now = db, site, query, period, now
        self.interval = interval or (interval_of(query.time_dimension, period) if query.time_dimension else None)
        self.buckets = self._buckets()
        self.sums = tuple(dict.fromkeys(name for metric in query.metrics for name in METRICS[metric].needs))
        self._target: Target | None = None
        self._wholes = {name: self._whole(METRICS[name].share_of) for name in query.metrics if METRICS[name].share_of}
        self._by_page = None  # the report of each page's exit rate
        if "exit_rate" in query.metrics and query.dimensions == ("visit:exit_page",):
            self._by_page = self._like(metrics=("exit_rate",), dimensions=("event:page",))

    def _like(self, **changed: Any) -> Report:
        query = dataclasses.replace(self.query, order_by=(), **changed)
        return Report(self.db, self.site, query, self.period, self.now, self.interval if query.time_dimension else None)

    def _whole(self, share_of: str) -> Report:
        """Return the report of the visitors that a share is of."""
        kept = {"rows": (), "period": TIME_DIMENSIONS, "group": [name for name in self.query.dimensions if not name.startswith((_PROP, "event:name"))]}
        return self._like(metrics=("visitors",), dimensions=tuple(name for name in self.query.dimensions if name in kept[share_of]),
                          filters=self.query.filters if share_of == "rows" else self.query.unconditional)

    def plan(self, days: Days) -> None:
        """Let sealed days answer this, if they can; without them it counts hits."""
        named = [name for name in self.query.dimensions if name not in TIME_DIMENSIONS]
        if self.period.is_whole_days and self.interval == "hour_of_week" and not named:
            self._target = days.want(self.query.filters, HOUR, self.sums, buckets_of(self.period, "day"))
        elif self.period.is_whole_days and self.interval in (None, "day", "week", "month") and len(named) <= 1 and DIMENSIONS.keys() >= set(named):
            self._target = days.want(self.query.filters, named[0] if named else None, self.sums, self.buckets)
        if self._target is None:
            days.span = None
        for report in filter(None, (*self._wholes.values(), self._by_page)):
            report.plan(days)

    def total(self) -> Mapping[str, int]:
        """Return the sums of a report without dimensions."""
        return next((sums for _, sums in self._read()), dict.fromkeys(self.sums, 0))

    def _buckets(self) -> list[Bucket]:
        if self.interval is None:
            return [Bucket("", self.period.start, self.period.end)]
        buckets = buckets_of(self.period, self.interval)
        if self.query.include.get("trim_relative_date_range") and self.interval != "hour_of_week":
            return [bucket for bucket in buckets if bucket.start <= self.now] or buckets[:1]
        return buckets

    def rows(self) -> list[Row]:
        """Return every row, in order."""
        rows = self.seen()
        if all(name in TIME_DIMENSIONS for name in self.query.dimensions):
            rows = self._filled(rows)
        return self._sorted(list(rows.items()))

    def first_rows(self, count: int) -> tuple[list[Row], int]:
        """Return (the first rows in order, at least so many where there are, how many there are in all).

        Of very many values only those that may come first get their name and all their metrics.
        """
        (metric, direction), *_ = self.query.order_by
        if self._target and len(self.query.dimensions) == 1 and not self.query.time_dimension and not self._by_page \
                and direction == "desc" and METRICS.keys() >= {metric} and not METRICS[metric].share_of and not METRICS[metric].money_per:
            seen = self._target.seen()
            if len(seen) > 4 * count:
                amounts = [self._metric(metric, self._target.sums_of(*each)) for each in seen]
                least = heapq.nlargest(count, (-math.inf if amount is None else amount for amount in amounts))[-1]
                seen = [each for each, amount in zip(seen, amounts) if amount is not None and amount >= least]
                if len(seen) >= count:
                    return self._sorted(list(self._rows(self._read_days(self._target, seen)).items())), len(amounts)
        rows = self.rows()
        return rows, len(rows)

    def seen(self) -> dict[tuple[str, ...], list]:
        """Return the metrics of those dimension values under which something was seen."""
        rows = self._rows(self._read())
        if self._by_page:
            self._set_exit_rates(rows)
        return rows

    def _rows(self, read: Iterable[tuple[tuple[str, ...], Mapping[str, int]]]) -> dict[tuple[str, ...], list]:
        wholes = {name: report.seen() for name, report in self._wholes.items()}
        revenue = self._revenue() if any(METRICS[name].money_per for name in self.query.metrics) else {}
        return {key: [_money(METRICS[name].money_per, revenue.get(key, {}), sums["visitors"]) if METRICS[name].money_per
                      else self._metric(name, sums, *self._share_of(name, key, wholes)) for name in self.query.metrics] for key, sums in read}

    @staticmethod
    def _metric(name: str, sums: Mapping[str, int], *whole: int) -> float | None:
        return METRICS[name].compute(*(sums[each] for each in METRICS[name].needs), *whole)

    def _share_of(self, name: str, key: tuple[str, ...], wholes: Mapping[str, Mapping[tuple, list]]) -> list[int]:
        """Return the number that a metric is a share of, if it is one: that of the row with the same values in as many dimensions."""
        if name not in wholes:
            return []
        kept = self._wholes[name].query.dimensions
        return wholes[name].get(tuple(value for each, value in zip(self.query.dimensions, key) if each in kept), [0])

    def _read(self) -> Iterator[tuple[tuple[str, ...], Mapping[str, int]]]:
        """Yield (dimension values, sums) of all that was seen."""
        if self._target:
            hours = self._target.dimension == HOUR
            yield from self._read_hours(self._target) if hours else self._read_days(self._target, self._target.seen())
            return
        values = 1 + sum(name not in TIME_DIMENSIONS for name in self.query.dimensions)
        for row in self.db.execute(*self._sql()):
            yield self._key(*row[:values]), dict(zip(self.sums, row[values:]))

    def _read_days(self, target: Target, seen: list[tuple[int, int]]) -> Iterator[tuple[tuple[str, ...], Mapping[str, int]]]:
        text = self._texts({value for _, value in seen}) if target.dimension else {}
        for bucket, value in seen:
            key = tuple(self.buckets[bucket].label if name in TIME_DIMENSIONS else text[value] for name in self.query.dimensions)
            yield key, target.sums_of(bucket, value)

    def _read_hours(self, target: Target) -> Iterator[tuple[tuple[str, ...], Mapping[str, int]]]:
        """Yield the hours of the week, put together of the hours of days: no visitor of one is seen again a week later."""
        found: dict[int, Counter[str]] = defaultdict(Counter)
        for bucket, hour in target.seen():
            found[(target.buckets[bucket][0] - 1) % 7 * 24 + hour].update(target.sums_of(bucket, hour))
        for place, sums in found.items():
            yield (self.buckets[place].label,), sums

    def _texts(self, values: set[int]) -> dict[int, str]:
        """Return the words for values of the one dimension."""
        rows = self.db.execute("select id, text from texts where id in (select value from json_each(?))", (json.dumps(list(values)),))
        return {**dict(rows), 0: DIMENSIONS[self._target.dimension].empty}

    def _parts(self, binder: Binder) -> tuple[str, str, list[str], str, str]:
        """Return what the statements of this report have in common: (buckets, columns, labels, what they group by, the condition)."""
        named = [dimension_of(name) for name in self.query.dimensions if name not in TIME_DIMENSIONS]
        condition = Where(binder, self.site, self.period).compile(self.query.filters)
        groups = [f"d{index}" for index in range(len(named))]
        columns = "".join(f"{binder.column(dimension)} as {group}, " for dimension, group in zip(named, groups))
        labels = [f"case {group} when 0 then {binder.bind(dimension.empty)} else (select text from texts where id = {group}) end"
                  for dimension, group in zip(named, groups)]
        ranges = json.dumps(ranges_of(self.period, self.interval, self.buckets) if self.interval else [(0, self.period.start << 16, self.period.end << 16)])
        buckets = f"""buckets as materialized (
                select json_extract(value, '$[0]') as bucket, json_extract(value, '$[1]') as low, json_extract(value, '$[2]') as high
                from json_each({binder.bind(ranges)}))"""
        return buckets, columns, labels, ", ".join(["bucket", *groups]), condition

    def _sql(self) -> tuple[str, dict[str, Any]]:
        """Return the statement of the sums of this report, and its values."""
        binder = Binder()
        buckets, columns, labels, grouping, condition = self._parts(binder)
        sums = [f"{SUMS[name]} as s{index}" for index, name in enumerate(self.sums)]
        return f"""
            with {buckets},
            seen as (
                select bucket, {columns} v.visitor, v.duration, v.pageviews = 1 and not v.interactive as bounced,
                    {'max(h.page = v.entry_page)' if self.query.by_page else '1'} as entered, count(*) as events, sum(h.name = {PAGEVIEW}) as pageviews,
                    sum(h.id = v.exit_id) as exits, sum(h.engaged) as engaged, max(h.scroll) as scroll
                from buckets cross join {_JOINED}
                where h.site_id = {binder.bind(self.site.id)} and h.id >= low and h.id < high and {condition}
                group by {grouping}, h.visit_id),
            grouped as (select {grouping}, {', '.join(sums)} from seen group by {grouping})
            select {', '.join(['bucket', *labels, *(f's{index}' for index in range(len(sums)))])} from grouped""", binder.values

    def _revenue(self) -> dict[tuple[str, ...], Revenue]:
        """Return the revenue under all values of the dimensions. Sums are made of halves, since whole they may be too large for SQLite."""
        found: dict[tuple[str, ...], dict[str, tuple[int, int]]] = defaultdict(dict)
        for currency, high, low, count, *bucket_and_values in self.db.execute(*self._revenue_sql()):
            found[self._key(*bucket_and_values)][currency] = (high << 32) + low, count
        return found

    def _revenue_sql(self) -> tuple[str, dict[str, Any]]:
        binder = Binder()
        buckets, columns, labels, grouping, condition = self._parts(binder)
        # Where every amount counts, by nothing but time, no hit is looked up: that would be nine tenths of the work.
        joined, chosen = (f"cross join {_JOINED}", f"and h.site_id = r.site_id and h.id = r.hit_id and {condition}") if self.query.filters or columns else ("", "")
        return f"""
            with {buckets},
            seen as (
                select bucket, {columns} r.amount, r.currency from buckets cross join revenue r {joined}
                where r.site_id = {binder.bind(self.site.id)} and r.hit_id >= low and r.hit_id < high {chosen}),
            grouped as (select currency, sum(amount >> 32) as high, sum(amount & 0xffffffff) as low, count(*) as count, {grouping}
                from seen group by currency, {grouping})
            select {', '.join(['currency', 'high', 'low', 'count', 'bucket', *labels])} from grouped""", binder.values

    def _key(self, bucket: int, *values: str) -> tuple[str, ...]:
        """Return the values of the dimensions, in their order, of a bucket and the texts of the others."""
        texts = iter(values)
        return tuple(self.buckets[bucket].label if name in TIME_DIMENSIONS else next(texts) for name in self.query.dimensions)

    def _set_exit_rates(self, rows: dict[tuple, list]) -> None:
        """Put the rate of each page into its row: by exit page, a visit's other pageviews are no part of it."""
        rates, index = self._by_page.seen(), self.query.metrics.index("exit_rate")
        for dimensions, metrics in rows.items():
            metrics[index] = rates.get(dimensions, [None])[0]

    def _filled(self, rows: dict[tuple, list]) -> dict[tuple, list]:
        """Return the rows with those that nothing was seen in."""
        keys = [(bucket.label,) for bucket in self.buckets] if self.query.dimensions else [()]
        return {key: rows.get(key) or self._nothing() for key in keys}

    def _nothing(self) -> list:
        return [{} if METRICS[name].money_per else METRICS[name].empty for name in self.query.metrics]

    def _sorted(self, rows: list[Row]) -> list[Row]:
        for name, direction in reversed(self.query.order_by):
            rows.sort(key=self._sort_key(name, rows), reverse=direction == "desc")
        return rows

    def _sort_key(self, name: str, rows: Sequence[Row]) -> Callable[[Row], Any]:
        if name in TIME_DIMENSIONS:
            index, moments = self.query.dimensions.index(name), {bucket.label: bucket.start for bucket in self.buckets}
            return lambda row: moments[row[0][index]]  # the labels of an hour that comes twice do not sort by time
        if name in self.query.dimensions:
            index = self.query.dimensions.index(name)
            return lambda row: row[0][index]
        index = self.query.metrics.index(name)
        if METRICS[name].money_per:  # amounts of one currency are compared first, that which most rows have
            having = Counter(currency for _, metrics in rows for currency in metrics[index])
            currencies = sorted(having, key=lambda currency: (-having[currency], currency))
            return lambda row: [Decimal(row[1][index].get(currency, 0)) for currency in currencies]
        return lambda row: -math.inf if row[1][index] is None else row[1][index]

    def compare(self, results: list[dict], other: Report) -> None:
        """Put into each result what its row was in another report; points in time are matched by their place, all else by value."""
        place = self.query.dimensions.index(self.query.time_dimension) if self.query.time_dimension else None
        shift = dict(zip((bucket.label for bucket in self.buckets), (bucket.label for bucket in other.buckets)))
        before = other.seen()
        for result in results:
            key = [shift.get(value) if index == place else value for index, value in enumerate(result["dimensions"])]
            was_seen = tuple(key) in before
            metrics = before.get(tuple(key)) or ([None] * len(self.query.metrics) if None in key else self._nothing())
            result["comparison"] = {"dimensions": key, "metrics": metrics, "change": [
                change(name, *pair, was_seen) for name, *pair in zip(self.query.metrics, result["metrics"], metrics)]}


class GoalsReport(Report):
    """A query by goal: for each goal a report of its own, that looks at the hits which reach it."""

    def __init__(self, db: sqlite3.Connection, site: Site, query: Query, period: Period, now: float, interval: str | None = None):
        super().__init__(db, site, query, period, now, interval)
        self._place = query.dimensions.index(GOAL)
        self._reports = {name: self._like(dimensions=tuple(each for each in query.dimensions if each != GOAL),
                                          filters=(*query.filters, *parts), goals={}) for name, parts in query.goals.items()}

    def plan(self, days: Days) -> None:
        """Let sealed days answer what they can."""
        for report in self._reports.values():
            report.plan(days)

    def first_rows(self, count: int) -> tuple[list[Row], int]:
        """Return (every row in order, how many there are); a goal that nobody reached has one too."""
        rows = self._sorted(list(self._side_by_side(lambda report: report.rows()).items()))
        return rows, len(rows)

    def seen(self) -> dict[tuple[str, ...], list]:
        """Return the metrics of those dimension values under which something was seen."""
        return self._side_by_side(lambda report: report.seen().items())

    def _side_by_side(self, rows: Callable[[Report], Iterable[Row]]) -> dict[tuple[str, ...], list]:
        return {(*key[:self._place], name, *key[self._place:]): metrics
                for name, report in self._reports.items() for key, metrics in rows(report)}


def change(metric: str, now: Any, before: Any, was_seen: bool = True) -> Any:
    """Return how a metric changed: in percent, of percentages in points; None where there is nothing to measure from.

    Of revenue it is a mapping from currencies to that.
    """
    if now is None or before is None:
        return None
    if METRICS[metric].money_per:
        return {currency: change("visitors", *(float(each.get(currency, 0)) for each in (now, before))) for currency in sorted({*now, *before})}
    if METRICS[metric].in_points and (was_seen or METRICS[metric].share_of):
        return round(now - before, 1)
    if before == 0:  # no visits at all have no bounce rate either, though it reads 0
        return 0 if now == 0 else None
    return round(100 * (now - before) / abs(before), 1)  # refunds can make revenue negative


class _Kept(NamedTuple):
    """An answer, and how to tell whether it still holds: nothing was written since, or the days it is about are as they were sealed."""

    body: bytes
    made: float
    version: tuple[int, int]
    span: tuple[int, int] | None
    seals: tuple | None


# Makes answers to bodies: (db, site, bodies, now, seconds it may take, definitions) → (what becomes JSON, the days it is about if all are sealed).
Maker = Callable[[sqlite3.Connection, Site, Sequence[Mapping[str, Any]], float, float, Definitions], tuple[Any, tuple[int, int] | None]]


class Answers:
    """Has reports made, few at a time so that collecting goes on beside them, and keeps the newest answers for a moment."""

    AT_ONCE = 2
    WAITING = 8  # each holds a thread that could take hits
    PATIENCE = 2 * REPORT_SECONDS  # for those before one's own, too
    KEPT, SECONDS, SIZE = 500, 30, 32_768  # answers, for how long, and how many characters one may have with its question

    def __init__(self, store: Store, clock: Clock):
        self._store, self._clock = store, clock
        # On threads of their own: of what a report needs, an allocator and a connection keep a part for each thread that made one.
        self._makers, self._door = ThreadPoolExecutor(self.AT_ONCE, "mininumbers-report"), threading.Semaphore(self.AT_ONCE + self.WAITING)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, site: Site, bodies: Sequence[Mapping[str, Any]], definitions: Definitions = Definitions(), make: Maker | None = None) -> bytes:
        """Return the answers to bodies as JSON, of /api/v2/query or of another report's. Raises InvalidInput, and Busy where they take too long."""
        check_patterns("filters", bodies, definitions)
        now, make = self._clock(), make or run_queries
        key = json.dumps([site.id, site.timezone, now // 60, make.__name__, definitions.mark, bodies])
        if body := self._find(key, site, now):
            return body
        if not self._door.acquire(blocking=False):
            raise Busy("Too many reports are being made just now. Try again in a moment.")
        try:
            self._store.reader()  # raises Busy where the site was read in a file that was replaced since
            making = self._makers.submit(self._make, self._store.version(), key, site, now, lambda db: make(db, site, bodies, now, REPORT_SECONDS, definitions))
            try:
                return making.result(self.PATIENCE)
            except FutureTimeout:
                making.cancel()
                raise Busy("Other reports take long just now. Try again in a moment.") from None
        finally:
            self._door.release()

    def close(self) -> None:
        """Wait for the reports that are being made."""
        self._makers.shutdown()

    def _find(self, key: str, site: Site, now: float) -> bytes | None:
        with self._lock:
            kept = self._kept.get(key)
        if kept is None or not 0 <= now - kept.made < self.SECONDS:
            return None
        if kept.version == self._store.version() or kept.span and kept.seals == _seals(self._store.reader(), site, kept.span):
            return kept.body
        return None

    def _make(self, version: tuple[int, int], key: str, site: Site, now: float, make: Callable[[sqlite3.Connection], tuple]) -> bytes:
        """Make an answer. The version is from before: what is written from then on may or may not be in the answer."""
        self._store.begin()
        if body := self._find(key, site, now):  # somebody else asked the same meanwhile
            return body
        with self._store.snapshot(REPORT_SECONDS) as db:
            if self._store.version()[0] != version[0]:
                raise Busy("The database was replaced just now. Try again in a moment.")
            answers, span = make(db)
            kept = _Kept(to_json(answers), now, version, span, _seals(db, site, span) if span else None)
        if len(key) + len(kept.body) <= self.SIZE:
            with self._lock:
                self._kept[key] = kept
                self._kept.move_to_end(key)
                while len(self._kept) > self.KEPT or next(iter(self._kept.values())).made <= now - self.SECONDS:
                    self._kept.popitem(last=False)
        return kept.body


def _seals(db: sqlite3.Connection, site: Site, span: tuple[int, int]) -> tuple:
    """Return what is another value once any of the sealed days of a span was opened."""
    return db.execute("select count(*), total(seal) from days where site_id = ? and day between ? and ? and state > 0", (site.id, *span)).fetchone()


def to_json(value: Any) -> bytes:
    """Return `value` as JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def current_visitors(db: sqlite3.Connection, site: Site, now: float) -> int:
    """Return the visitors with a sign of life in the last five minutes."""
    return db.execute("select count(distinct visitor) from visits where site_id = ? and live = 1 and (id >> 16) + duration > ?",
                      (site.id, int(now) - 300)).fetchone()[0]


LIVE_MINUTES = 30
LIVE_ROWS = 10  # of each list
LIVE_FEED = 30  # newest hits
LIVE_HITS = 50_000  # most that are looked at: a site with more in half an hour is told of the newest


class _LiveHit(NamedTuple):
    id: int
    visitor: int
    name: int
    page: int
    country: int


def live(db: sqlite3.Connection, site: Site, now: float) -> dict:
    """Return what happens just now: {"visitors", "minutes", "pages", "sources", "countries", "hits", "is_cut"}.

    Visitors are the current ones, and the lists are of them, by the page they saw last. Minutes are [visitors, pageviews], the oldest
    first; hits are the newest, with their age in seconds. A hit comes without its source and
    its browser: on a quiet site these together would make several of them one person's walk.
    """
    second = int(now)
    present = db.execute("""
        select v.exit_page, o.source, c.country from visits v join clients c on c.id = v.client_id join origins o on o.id = v.origin_id
        where v.site_id = ? and v.live = 1 and (v.id >> 16) + v.duration > ?""", (site.id, second - 300)).fetchall()
    hits = list(map(_LiveHit._make, db.execute("""
        select h.id, v.visitor, h.name, h.page, c.country
        from hits h join visits v on v.site_id = h.site_id and v.id = h.visit_id join clients c on c.id = v.client_id
        where h.site_id = ? and h.id >= ? order by h.id desc limit ?""", (site.id, (second - LIVE_MINUTES * 60 + 1) << 16, LIVE_HITS))))
    counts = {name: Counter(column).most_common(LIVE_ROWS) for name, column in zip(("page", "source", "country"), zip(*present) if present else [()] * 3)}
    texts = _live_texts(db, hits[:LIVE_FEED], counts)
    return {"visitors": len(present), "minutes": _live_minutes(hits, second),
            "pages": _live_rows(counts["page"], texts, "event:page"), "sources": _live_rows(counts["source"], texts, "visit:source"),
            "countries": _live_rows(counts["country"], texts, "visit:country"),
            "hits": [_live_hit(hit, texts, second) for hit in hits[:LIVE_FEED]], "is_cut": len(hits) == LIVE_HITS}


def _live_minutes(hits: Sequence[_LiveHit], second: int) -> list[list[int]]:
    visitors, pageviews = [set() for _ in range(LIVE_MINUTES)], [0] * LIVE_MINUTES
    for hit in hits:
        ago = max(0, second - (hit.id >> 16)) // 60
        visitors[ago].add(hit.visitor)
        pageviews[ago] += hit.name == PAGEVIEW
    return [[len(who), views] for who, views in zip(reversed(visitors), reversed(pageviews))]


def _live_texts(db: sqlite3.Connection, hits: Sequence[_LiveHit], counts: Mapping[str, list[tuple[int, int]]]) -> dict[int, str]:
    wanted = {text for hit in hits for text in hit[2:]} | {text for rows in counts.values() for text, _ in rows}
    return dict(db.execute("select id, text from texts where id in (select value from json_each(?))", (json.dumps(list(wanted)),)))


def _live_rows(counts: Sequence[tuple[int, int]], texts: Mapping[int, str], dimension: str) -> list[list]:
    return [[texts.get(text) or DIMENSIONS[dimension].empty, visitors] for text, visitors in counts]


def _live_hit(hit: _LiveHit, texts: Mapping[int, str], second: int) -> dict:
    named = {name: texts.get(getattr(hit, name)) or DIMENSIONS[dimension].empty for name, dimension in (
        ("page", "event:page"), ("country", "visit:country"))}
    return {"age": max(0, second - (hit.id >> 16)), "name": texts[hit.name], **named}


def dropped_hits(db: sqlite3.Connection, site: Site, first: date, last: date) -> list[dict]:
    """Return [{"date", "reason", "count"}] of what was not counted on the local days from `first` to `last`."""
    rows = db.execute("select day, reason, count from dropped where site_id = ? and day between ? and ? order by day, reason",
                      (site.id, first.isoformat(), last.isoformat()))
    return [dict(zip(("date", "reason", "count"), row)) for row in rows]


MAX_PROPERTIES = 100  # names are what senders make of them


def property_names(db: sqlite3.Connection, site: Site, first: date, last: date) -> list[str]:
    """Return the custom properties that hits of these local days have, the most used first."""
    period = Period.of_days(first, last, site.zone)
    rows = db.execute("""
        select text from (select key, count(*) as uses from props where site_id = ? and hit_id >= ? and hit_id < ? group by key)
        join texts on id = key order by uses desc, text limit ?""", (site.id, period.start << 16, period.end << 16, MAX_PROPERTIES))
    return [text for text, in rows]


# ---- conversions -----------------------------------------------------------------------------------------------------
# What people name in their questions: goals, segments and funnels. They are kept as they were given and apply to all data, older
# data too: a question that names one is asked as if what it stands for had been written there.

MAX_NAMED = 500  # goals of a site, as many segments, and as many funnels
PAGE_TESTS = ("is", "starts_with", "contains", "wildcard", "matches")
GOAL_KINDS = {"page": None, "event": None, "scroll": ("event:scroll_depth", 100), "time": ("event:time_on_page", 86_400)}
STEPS = (2, 8)  # of a funnel
ORDERS = ("any", "strict")
GOAL_METRICS = ("visitors", "visits", "pageviews", "events", "bounce_rate", "visit_duration")  # which are made of GOAL_SUMS
NOTE_SECONDS = 20  # for the goals of a day; salts that are over wait for the job


def goal_fields(kind: Any) -> tuple[str, ...]:
    """Return which fields goals of a kind have that others have not."""
    return () if kind == "event" else ("match",) if kind == "page" else ("match", "at_least")


def check_goal(form: Form, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definition of a goal: {"kind", "match", "value", "at_least", "filters"}; mistakes are noted in the form."""
    kind = _check_choice(form, body, "kind", GOAL_KINDS)
    definition: dict[str, Any] = {"kind": kind}
    for name in ("match", "at_least"):
        if kind and body.get(name) is not None and name not in goal_fields(kind):
            form.fail(name, f"is not for goals of the kind {kind}")
    if (kind, body.get("value")) == ("event", ENGAGEMENT):
        form.fail("value", "is no event that is counted; take a goal of the kind scroll or time")
    if kind != "event":
        definition["match"] = _check_choice(form, body, "match", PAGE_TESTS, "is")
    definition["value"] = value = form.text("value", most=NAME_LIMIT if kind == "event" else PAGE_LIMIT, required=True)
    if definition.get("match") in ("is", "starts_with", "wildcard") and value and not value.startswith("/"):
        form.fail("value", "must begin with /, as every page does")
    if definition.get("match") == "matches":
        _check_pattern("value", value)
    if measure := GOAL_KINDS.get(kind):
        definition["at_least"] = form.whole("at_least", least=1, most=measure[1])
        if body.get("at_least") is None:
            form.fail("at_least", f"is required: {'percent of the page' if kind == 'scroll' else 'seconds'}")
    definition["filters"] = _check_filters(form, body, "filters")
    if any(name == GOAL for name, _ in references(definition["filters"])):
        form.fail("filters", "of a goal must not name goals; put both into a segment")
    return definition


def check_segment(form: Form, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definition of a segment: {"filters"}; mistakes are noted in the form."""
    definition = {"filters": _check_filters(form, body, "filters")}
    if not definition["filters"]:
        form.fail("filters", "must be a list of at least one filter")
    return definition


def check_funnel(form: Form, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the definition of a funnel: {"steps", "order", "window"}; mistakes are noted in the form."""
    steps = body.get("steps")
    if not isinstance(steps, list) or not STEPS[0] <= len(steps) <= STEPS[1]:
        form.fail("steps", f"must be a list of {STEPS[0]} to {STEPS[1]} steps")
        steps = []
    return {"steps": [_check_step(form, number, step) for number, step in enumerate(steps, start=1)],
            "order": _check_choice(form, body, "order", ORDERS, "any"), "window": form.whole("window", least=60, most=90 * 86_400)}


def _check_step(form: Form, number: int, step: Any) -> dict[str, Any]:
    """Return a step of a funnel; it keeps its name only where that is another than it would have without."""
    if not isinstance(step, dict) or set(step) - {"name", "filters"} or not isinstance(step.get("filters"), list) or not step["filters"]:
        form.fail("steps", f"step {number} must have filters, a list of at least one, may have a name, and nothing else")
        return {"filters": []}
    its = Form(step)
    name = its.text("name", most=NAME_LIMIT).strip()
    try:
        its.check()
    except InvalidInput as error:
        form.fail("steps", f"step {number}: {error}")
    return {**({"name": name} if name not in ("", step_name(number, {"filters": step["filters"]})) else {}), "filters": step["filters"]}


def step_name(number: int, step: Mapping[str, Any]) -> str:
    """Return what a step of a funnel is called: as people say, or by the one goal, page or event that it is about."""
    if "name" in step:
        return step["name"]
    first, *others = step["filters"]
    if not others and isinstance(first, list) and len(first) == 3 and first[0] == "is" and first[1] in (GOAL, "event:page", "event:name"):
        values = first[2] if isinstance(first[2], list) else []
        if len(values) == 1 and isinstance(values[0], str) and values[0]:
            return values[0]
    return f"Step {number}"


def _check_choice(form: Form, body: Mapping[str, Any], name: str, choices: Iterable[str], default: str | None = None) -> str:
    value = body.get(name, default)
    if not isinstance(value, str) or value not in choices:
        form.fail(name, f"must be one of {', '.join(choices)}")
        return ""
    return value


def _check_filters(form: Form, body: Mapping[str, Any], name: str) -> list:
    value = body.get(name)
    if value is not None and not isinstance(value, list):
        form.fail(name, "must be a list of filters")
        return []
    return value or []


def goal_parts(goal: Mapping[str, Any]) -> list:
    """Return the filters that a hit must pass, all of them, to reach a goal."""
    kind, value, further = goal["kind"], goal["value"], goal["filters"]
    if kind == "event":
        return [["is", "event:name", [value]], *further]
    page = ["matches", "event:page", [wildcard_pattern(value)]] if goal["match"] == "wildcard" else [goal["match"], "event:page", [value]]
    measure = GOAL_KINDS[kind]
    return [VIEWS, page, *([["at_least", measure[0], [goal["at_least"]]]] if measure else []), *further]


def wildcard_pattern(text: str) -> str:
    """Return the regular expression of a text in which * stands for anything but a slash, and ** for anything."""
    parts = re.split(r"(\*+)", text)
    return "^" + "".join(("[^/]*" if part == "*" else ".*") if part.startswith("*") else _escaped(part) for part in parts) + "$"


def _escaped(text: str) -> str:
    return re.sub(r"([!-/:-@\[-`{-~])", lambda match: match[1] if match[1] in "<>_" else f"\\{match[1]}", text)


def references(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (event:goal, name) and (segment, id) of all that is named in filters, or in anything that holds filters."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list) and len(value) == 3 and value[1] in (GOAL, SEGMENT) and isinstance(value[2], list):
        yield from ((value[1], each) for each in value[2] if isinstance(each, (str, int)))
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def _with_goal_renamed(value: Any, old: str, new: str) -> Any:
    """Return filters, or anything that holds filters, in which a goal has its new name."""
    if isinstance(value, dict):
        return {key: _with_goal_renamed(each, old, new) for key, each in value.items()}
    if isinstance(value, list) and len(value) == 3 and value[1] == GOAL and isinstance(value[2], list):
        return [value[0], GOAL, [new if each == old else each for each in value[2]]]
    return [_with_goal_renamed(each, old, new) for each in value] if isinstance(value, list) else value


def _named_steps(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": step_name(number, step), "filters": step["filters"]} for number, step in enumerate(steps, start=1)]


def _filters_of(kind: str, definition: Mapping[str, Any]) -> list[list]:
    """Return the filters that a definition holds: of a funnel those of each step, else one list of them."""
    if kind == "funnels":
        return [step["filters"] for step in definition["steps"]]
    return [goal_parts(definition) if kind == "goals" else definition["filters"]]


@dataclass(frozen=True)
class Named:
    """A goal, segment or funnel as it is kept. `kind` is the name of its table, `user_id` whose it is if it is not shared."""

    kind: str
    id: int
    site_id: int
    name: str
    definition: Mapping[str, Any]
    user_id: int | None = None

    @property
    def reference(self) -> tuple[str, Any]:
        """What filters name it by, as references() tells; nothing can name a funnel."""
        return (GOAL, self.name) if self.kind == "goals" else (SEGMENT, self.id) if self.kind == "segments" else ("", None)

    def expand(self, known: Definitions) -> None:
        """Put what is named in it, and in what is named there, in the place of the names. Raises InvalidInput where that cannot be done."""
        itself = ["is", self.reference[0], [self.reference[1]]]
        for filters in _filters_of(self.kind, self.definition) if self.kind == "funnels" else [[itself]]:
            known.expand(filters)

    def as_json(self) -> dict[str, Any]:
        """Return it as the API tells it."""
        personal = {"personal": self.user_id is not None} if self.kind == "segments" else {}
        steps = {"steps": _named_steps(self.definition["steps"])} if self.kind == "funnels" else {}
        return {"id": self.id, "name": self.name, **personal, **self.definition, **steps}

    def label(self) -> str:
        """Return what it is called to everybody: the name of a personal segment is not for others to know."""
        return "a personal segment" if self.user_id is not None else f"the {self.kind[:-1]} {self.name!r}"


def list_named(db: sqlite3.Connection, kind: str, site_id: int) -> list[Named]:
    """Return all of a kind that there are of a site, personal ones of everybody too, by name."""
    user_id = "user_id" if kind == "segments" else "null"
    rows = db.execute(f"select id, site_id, name, definition, {user_id} from {kind} where site_id = ? order by name, id", (site_id,))
    return [Named(kind, *row[:3], json.loads(row[3]), row[4]) for row in rows]


def visible_named(db: sqlite3.Connection, kind: str, site_id: int, user_id: int | None) -> list[Named]:
    """Return those of a kind that are shared, and the person's own."""
    return [each for each in list_named(db, kind, site_id) if each.user_id in (None, user_id)]


def find_named(db: sqlite3.Connection, kind: str, named_id: int, user_id: int | None) -> Named:
    """Return one by its id. Raises NotFound where there is none, or it is somebody else's."""
    row = db.execute(f"select site_id from {kind} where id = ?", (named_id,)).fetchone()
    for each in visible_named(db, kind, row[0], user_id) if row else ():
        if each.id == named_id:
            return each
    raise NotFound(f"There is no such {kind[:-1]}.")


def read_definitions(db: sqlite3.Connection, site_id: int, user_id: int | None) -> Definitions:
    """Return what a person's questions about a site may name."""
    goals, segments = (visible_named(db, kind, site_id, user_id) for kind in ("goals", "segments"))
    mark = hashlib.sha256(repr((goals, segments)).encode()).hexdigest() if goals or segments else ""
    return Definitions({each.name: goal_parts(each.definition) for each in goals}, {each.id: each.definition["filters"] for each in segments}, mark)


def read_named(kind: str, body: Mapping[str, Any], before: Named | None = None) -> tuple[str, dict[str, Any]]:
    """Return (name, definition) of a body, which for a change needs to tell only what changes. Raises InvalidInput."""
    check, known = CHECKS[kind]
    kept = {"name": before.name, **before.definition} if before else {}
    if kind == "goals":  # a goal that becomes of another kind loses what that has not
        kept = {name: value for name, value in kept.items() if name not in ("match", "at_least") or name in goal_fields(body.get("kind", kept["kind"]))}
    body = {**kept, **body}
    form = Form(body)
    for name in sorted(set(body) - {"site_id", "name", *known, *(["personal"] if kind == "segments" else [])}):
        form.fail(name, "is not known")
    name = form.text("name", most=NAME_LIMIT, required=True).strip()
    if isinstance(body.get("name"), str) and body["name"] and not name:
        form.fail("name", "is required")
    definition = check(form, body)
    form.check()
    return name, definition


def save_named(store: Store, kind: str, site: Site, user_id: int | None, body: Mapping[str, Any], before: Named | None = None,
               also: Callable[[sqlite3.Connection, Named], None] = lambda db, named: None) -> Named:
    """Add a goal, segment or funnel, of a person if `user_id` is given; or change one that was there. Raises InvalidInput and Conflict.

    `also` is done in the same transaction.
    """
    name, definition = read_named(kind, body, before)
    db = store.reader()
    known = read_definitions(db, site.id, user_id)
    itself = {before.id: [VIEWS]} if before and kind == "segments" else {}  # circles are found when it is written
    known = dataclasses.replace(known, segments={**known.segments, **itself})
    check_patterns("steps" if kind == "funnels" else "filters", _filters_of(kind, definition), known)
    if kind == "funnels":
        read_steps(definition["steps"], known)
    else:
        read_filters(*_filters_of(kind, definition), known)  # here, as patterns take the writer's time

    def write(db: sqlite3.Connection) -> Named:
        named = _write_named(db, kind, site.id, user_id, name, definition, before)
        also(db, named)
        return named
    return store.transact(write)


def read_steps(steps: Sequence[Mapping[str, Any]], definitions: Definitions) -> tuple[tuple, ...]:
    """Return the filters of each step of a funnel as the compiler takes them. Raises InvalidInput."""
    read = []
    for number, step in enumerate(steps, start=1):
        try:
            read.append(read_filters(step["filters"], definitions))
        except InvalidInput as error:
            raise InvalidInput.of("steps", f"step {number}: {error}") from error
    return tuple(read)


def _write_named(db: sqlite3.Connection, kind: str, site_id: int, user_id: int | None, name: str, definition: Mapping[str, Any],
                 before: Named | None) -> Named:
    others = [each for each in list_named(db, kind, site_id) if each.user_id == user_id and (before is None or each.id != before.id)]
    if any(each.name == name for each in others):
        raise Conflict(f"There is a {kind[:-1]} of that name already.", [{"field": "name", "message": "is taken"}])
    if len(others) >= MAX_NAMED:
        raise Conflict(f"A site may have {MAX_NAMED} {kind}.")
    row = {"site_id": site_id, "name": name, "definition": json.dumps(definition), **({"user_id": user_id} if kind == "segments" else {})}
    if before is None:
        named_id = db.execute(f"insert into {kind} ({', '.join(row)}) values ({', '.join(':' + each for each in row)})", row).lastrowid
    else:
        named_id = before.id
        db.execute(f"update {kind} set {', '.join(f'{each} = :{each}' for each in row)} where id = :id", {**row, "id": named_id})
        if kind == "goals" and before.name != name:
            _rename_goal(db, site_id, before.name, name)
    _check_uses(db, site_id)
    return Named(kind, named_id, site_id, name, definition, user_id)


def _rename_goal(db: sqlite3.Connection, site_id: int, old: str, new: str) -> None:
    """Give a goal its new name wherever it is named."""
    for kind in CHECKS:
        for each in list_named(db, kind, site_id):
            if (GOAL, old) in references(each.definition):
                db.execute(f"update {kind} set definition = ? where id = ?", (json.dumps(_with_goal_renamed(each.definition, old, new)), each.id))


def _check_uses(db: sqlite3.Connection, site_id: int) -> None:
    """Raise InvalidInput where anything of a site names what is not there for it, itself, or too much: a change may do that to others."""
    named = [each for kind in CHECKS for each in list_named(db, kind, site_id)]
    for user_id in {each.user_id for each in named}:
        known = read_definitions(db, site_id, user_id)
        for each in (each for each in named if each.user_id == user_id):
            try:
                each.expand(known)
            except InvalidInput as error:
                raise InvalidInput.of("filters", f"in {each.label()}: {error.details[0]['message']}") from error


def remove_named(db: sqlite3.Connection, named: Named) -> None:
    """Delete a goal, segment or funnel. Raises Conflict, which says by what it is used, where it is."""
    users = [each.label() for kind in CHECKS for each in list_named(db, kind, named.site_id)
             if named.reference in references(each.definition)]
    if users:
        raise Conflict(f"It is used by {', '.join(dict.fromkeys(users))}. Change or delete that first.",
                       [{"field": "used_by", "message": each} for each in users])
    db.execute(f"delete from {named.kind} where id = ?", (named.id,))


# What there is of each kind: the function that checks what a body says of it, and the fields that it may have.
CHECKS: dict[str, tuple[Callable[[Form, Mapping[str, Any]], dict], tuple[str, ...]]] = {
    "goals": (check_goal, ("kind", "match", "value", "at_least", "filters")),
    "segments": (check_segment, ("filters",)),
    "funnels": (check_funnel, ("steps", "order", "window")),
}


def note_goals(store: Store, site: Site, deadline: float = math.inf) -> None:
    """Note what reached each goal on sealed days, so that reports of goals add that up. What is not begun by `deadline` is left for the next time.

    Goals that ask for what else was done in the period of a report cannot be told day by day.
    """
    with store.snapshot() as db:
        known = read_definitions(db, site.id, None)
        expanded = [known.expand([["is", GOAL, [name]]]) for name in known.goals]
        goals = {goal_key(filters): filters for filters in expanded if not any(map(_has_behaviour, filters))}
        missing = db.execute("""
            select d.day, d.seal, json_group_array(j.value) from days d cross join json_each(:goals) j
            where d.site_id = :site and d.state = 1 and not exists (select 1 from rollups r where r.site_id = d.site_id and r.days = 1
                and r.day = d.day and r.dimension = :dimension and r.seam = 0 and r.value = j.value)
            group by d.day""", {"site": site.id, "goals": json.dumps(list(goals)), "dimension": GOAL_PLACE}).fetchall()
    writing: list[Future] = []
    for day, seal, keys in missing:
        if time.monotonic() > deadline:
            break
        try:
            with store.snapshot(NOTE_SECONDS) as db:
                rows = _goal_rows(db, site, day, {key: goals[key] for key in json.loads(keys)})
        except Busy:  # a pattern of somebody's goal is slow: they are counted when they are asked for
            break
        writing.append(store.submit(_write_goal_rows, (site.id, day, seal, list(goals), rows)))
        if len(writing) > 8:  # days that are small are written several at a time
            store.wait(writing.pop(0), WRITE_TIMEOUT)
    for done in writing:
        store.wait(done, WRITE_TIMEOUT)


def _goal_rows(db: sqlite3.Connection, site: Site, day: int, goals: Mapping[int, tuple]) -> list[tuple]:
    """Return the rows of `rollups` of a day, from `seam` on: its totals, and at the seam what two days together are more than each for itself."""
    days, reports = Days(db, site), defaultdict(list)
    for key, filters in goals.items():
        query = Query(GOAL_METRICS, (), None, filters, (), {}, 1, 0)
        for first, last in ((day, day), (day - 1, day - 1), (day - 1, day)):
            reports[key].append(Report(db, site, query, Period.of_days(date.fromordinal(first), date.fromordinal(last), site.zone), 0))
            reports[key][-1].plan(days)
    days.read()
    rows = []
    for key in goals:
        its, before, both = (report.total() for report in reports[key])
        rows += [(seam, key, *(sums.get(name, 0) for name in SUMS)) for seam, sums in (
            (0, its), (1, {name: both[name] - its[name] - before[name] for name in GOAL_SUMS}))]
    return rows


def _write_goal_rows(db: sqlite3.Connection, days: Sequence[tuple]) -> list[None]:
    """Write what was noted of days, but for those that were opened since; what is noted of goals that are no more goes."""
    for site_id, day, seal, keys, rows in days:
        if db.execute("select 1 from days where site_id = ? and day = ? and seal = ? and state = 1", (site_id, day, seal)).fetchone():
            db.execute("""
                delete from rollups where site_id = ? and days = 1 and day = ? and dimension = ? and value not in (select value from json_each(?))""",
                       (site_id, day, GOAL_PLACE, json.dumps(keys)))
            _insert(db, "rollups", _ROLLUP_COLUMNS, [(site_id, 1, day, GOAL_PLACE, *row) for row in rows], "on conflict do nothing")
    return [None] * len(days)


def suggest_goals(db: sqlite3.Connection, site: Site, now: float) -> list[dict[str, Any]]:
    """Return goals that might be wanted: of the events and pages most seen in the last 30 days and today, those that no goal is of yet."""
    last = local_date(now, site.zone)
    period = {"site_id": site.domain, "date_range": [(last - timedelta(days=30)).isoformat(), last.isoformat()], "metrics": ["visitors"]}
    asked = [{**period, "dimensions": [dimension], "pagination": {"limit": 30}} for dimension in ("event:name", "event:page")]
    taken = {(each.definition["kind"], each.definition["value"]) for each in list_named(db, "goals", site.id)}
    answers, _ = run_queries(db, site, asked, now, REPORT_SECONDS)
    found = [({"kind": kind, **({"match": "is"} if kind == "page" else {}), "value": row["dimensions"][0]}, row["metrics"][0])
             for kind, answer in zip(("event", "page"), answers) for row in answer["results"]]
    return [{**goal, "name": goal["value"] if goal["kind"] == "event" else f"Visit {goal['value']}"[:NAME_LIMIT], "visitors": visitors}
            for goal, visitors in found if goal["value"] not in ("pageview", "(other)") and (goal["kind"], goal["value"]) not in taken]


# ---- funnels ---------------------------------------------------------------------------------------------------------
# How far visitors get on a way of several steps. Sealed days have the ways of visits ready; where they cannot tell, all hits of the
# period are gone through.

DESTINATIONS = 10  # of those who left a funnel at a step


# Hits as funnels see them: (id, id of the visit, bit by bit which steps it passes, node). The node is twice the page of a pageview, or
# twice the name of a custom event and one. They are plain tuples, as they come, since there are millions.
Hits = Sequence[tuple[int, int, int, int]]
Attempt = tuple[list[int], int | None]  # (the ids of its hits, the node of the next hit of the same visit)


def _better(one: Attempt | None, other: Attempt) -> Attempt:
    """Return the longer of two attempts, or of equal ones that which began first."""
    return other if one is None or (-len(other[0]), other[0]) < (-len(one[0]), one[0]) else one


@dataclass(frozen=True)
class Funnel:
    """A funnel as it is asked about: for each step its name and filters, without names of goals and segments."""

    names: tuple[str, ...]
    steps: tuple[tuple, ...]
    order: str
    window: int | None

    def best(self, hits: Hits) -> Attempt:
        """Return the best attempt among the hits of a visit, or of a visitor where there is a window."""
        if len(hits) == 1:  # most visits
            return ([hits[0][0]] if hits[0][2] & 1 else []), None
        chain = self.places(hits)
        after = chain[-1] + 1 if chain else len(hits)
        return [hits[place][0] for place in chain], hits[after][3] if after < len(hits) and hits[after][1] == hits[after - 1][1] else None

    def places(self, hits: Hits) -> Sequence[int]:
        """Return which hits are the longest attempt; of equal ones the earliest.

        Without a window, and with other hits between, that is who takes each step as soon as they can.
        """
        if self.order == "strict":
            return self._directly(hits)
        return self._within(hits, self.window) if self.window else self._soonest(hits)

    @staticmethod
    def _soonest(hits: Hits, start: int = 0) -> list[int]:
        """Return the places of the hits that take each step as soon as they can, from some place on."""
        chain: list[int] = []
        for place in range(start, len(hits)):
            if hits[place][2] >> len(chain) & 1:
                chain.append(place)
        return chain

    def _within(self, hits: Hits, window: int) -> list[int]:
        """Return the places of the best attempt that takes no longer than a window.

        For each length the attempt that began last is remembered, as it has most time left. The first that gets as far as any tells
        when the best one ends, and that one begins at the first hit of step 1 from which the window reaches as far.
        """
        began, length, end = [-math.inf] * (len(self.steps) + 1), 0, 0  # seconds, by length
        for hit_id, _, passed, _ in hits:
            began[0] = second = hit_id >> 16
            for place in range(passed.bit_length(), 0, -1):
                if passed >> place - 1 & 1 and second - began[place - 1] <= window:
                    began[place] = began[place - 1]
                    if place > length:
                        length, end = place, second
        return self._soonest(hits, bisect.bisect_left(hits, (end - window << 16,)))[:length]

    def _directly(self, hits: Hits) -> range:
        """Return the places of the best attempt in which each hit is the one directly after the hit before; here `hits` are all that there are."""
        length, last, alive = 0, -1, 0  # bit by bit the lengths of attempts that end here
        for place, (_, _, passed, _) in enumerate(hits):
            alive = (alive << 1 | 1) & passed
            while alive and self._is_late(hits, place, alive.bit_length()):
                alive ^= 1 << alive.bit_length() - 1
            if alive.bit_length() > length:
                length, last = alive.bit_length(), place
        return range(last + 1 - length, last + 1)

    def _is_late(self, hits: Hits, place: int, length: int) -> bool:
        return self.window is not None and (hits[place][0] >> 16) - (hits[place + 1 - length][0] >> 16) > self.window


_FUNNEL_KEYS = ("site_id", "date_range", "filters", "include", "funnel_id", "steps", "order", "window")


def check_keys(body: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise InvalidInput where a question has a field that it cannot have."""
    if unknown := set(body) - set(known):
        raise InvalidInput.of(min(unknown), f"is not known; there are {', '.join(known)}")


def read_funnel(body: Mapping[str, Any], definitions: Definitions = Definitions()) -> Funnel:
    """Return the Funnel of a body that asks about one. Raises InvalidInput, which names the field."""
    check_keys(body, _FUNNEL_KEYS)
    form = Form(body)
    if isinstance(body.get("include"), dict) and set(body["include"]) - {"comparisons"}:
        form.fail("include", "may have comparisons, and nothing else")
    definition = check_funnel(form, body)
    form.check()
    names = tuple(step["name"] for step in _named_steps(definition["steps"]))
    return Funnel(names, read_steps(definition["steps"], definitions), definition["order"], definition["window"])


def run_funnels(db: sqlite3.Connection, site: Site, bodies: Sequence[Mapping[str, Any]], now: float, seconds: float = math.inf,
                definitions: Definitions = Definitions()) -> tuple[list[dict], tuple[int, int] | None]:
    """Answer bodies of /api/funnels/report, as Answers has it done. Raises InvalidInput, and Busy after so many seconds."""
    deadline = time.monotonic() + seconds

    def check_time() -> None:
        if time.monotonic() > deadline:
            raise Busy(too_long(seconds))
    days = Days(db, site, check_time)
    asked = [(body, read_funnel(body, definitions), _whole(db, site, body, now, definitions)) for body in bodies]
    for _, _, whole in asked:
        whole.plan(days)
    days.read()
    return [_funnel_answer(*each, days, check_time) for each in asked], days.span


def _whole(db: sqlite3.Connection, site: Site, body: Mapping[str, Any], now: float, definitions: Definitions) -> Answer:
    """Return the Answer of how many visitors there are at all; it knows the periods, too."""
    kept = {name: body[name] for name in ("date_range", "filters", "include") if name in body}
    return Answer(db, site, read_query({"metrics": ["visitors"], **kept}, definitions), now)


def _funnel_answer(body: Mapping[str, Any], funnel: Funnel, whole: Answer, days: Days, check_time: Callable[[], None]) -> dict:
    told = whole.as_json()
    steps, *others = (_funnel_rows(funnel, report, days, check_time) for report in (whole.report, whole.other) if report)
    for other in others:
        _compare_steps(steps, other)
    asked = {name: told["query"][name] for name in ("site_id", "date_range", "filters", "include")}
    named = [{"name": name, "filters": step["filters"]} for name, step in zip(funnel.names, body["steps"])]
    return {"steps": steps, "visitors": told["results"][0]["metrics"][0], "meta": told["meta"], "query": {
        **asked, **({"funnel_id": body["funnel_id"]} if body.get("funnel_id") else {}), "steps": named, "order": funnel.order, "window": funnel.window}}


def _compare_steps(steps: Sequence[dict], before: Sequence[dict]) -> None:
    """Put into each step of a funnel what it was in another period."""
    metrics = {"visitors": "visitors", "rate": "conversion_rate", "step_rate": "conversion_rate"}
    for step, other in zip(steps, before):
        step["comparison"] = {**{name: other[name] for name in metrics},
                              "change": {name: change(metric, step[name], other[name]) for name, metric in metrics.items()}}


def _funnel_rows(funnel: Funnel, report: Report, days: Days, check_time: Callable[[], None]) -> list[dict]:
    """Return what the API tells of each step of a funnel in the period of a report."""
    db, site, filters = report.db, report.site, report.query.filters
    ways = days.ways(report.period) if FunnelWays.is_possible(funnel, filters) else None
    counts = FunnelHits(db, site, funnel, report.period, filters, check_time).counts if ways is None else FunnelWays(db, site, funnel, filters, ways).counts
    return [counts.row(db, place) for place in range(len(funnel.steps))]


class FunnelCounts:
    """How many visitors got how far in a funnel, each by their best attempt."""

    def __init__(self, funnel: Funnel):
        self._names, count = funnel.names, len(funnel.steps)
        self.ended = [0] * (count + 1)  # visitors by how many steps they took
        self.waits: list[Counter[int]] = [Counter() for _ in range(count)]  # seconds from a step to the next → visitors
        self.went: list[Counter[int | None]] = [Counter() for _ in range(count + 1)]  # after so many steps: node → visitors

    def add(self, attempt: Attempt, sign: int = 1) -> None:
        """Count a visitor, or take one away."""
        chain, after = attempt
        self.ended[len(chain)] += sign
        self.went[len(chain)][after] += sign
        for waits, before, hit_id in zip(self.waits, chain, chain[1:]):
            waits[(hit_id >> 16) - (before >> 16)] += sign

    def row(self, db: sqlite3.Connection, place: int) -> dict:
        """Return what the API tells of a step."""
        first, before, here, further = (sum(self.ended[max(1, steps):]) for steps in (1, place, place + 1, place + 2))
        is_last = place == len(self._names) - 1
        return {"name": self._names[place], "visitors": here, "rate": _share(here, first), "step_rate": _share(here, before) if place else None,
                "drop_off": None if is_last else here - further, "seconds": _quartiles(self.waits[place]),
                "destinations": [] if is_last else self._destinations(db, +self.went[place + 1])}

    @staticmethod
    def _destinations(db: sqlite3.Connection, went: Counter[int | None]) -> list[dict]:
        """Return the commonest destinations; that a visit ended is always among them."""
        texts = dict(db.execute("select id, text from texts where id in (select value from json_each(?))",
                                (json.dumps([node >> 1 for node in went if node is not None]),)))
        rows = [{"dimension": None, "value": None, "visitors": visitors} if node is None else
                {"dimension": "event:name" if node & 1 else "event:page", "value": texts[node >> 1] or DIMENSIONS["event:page"].empty, "visitors": visitors}
                for node, visitors in went.items()]
        rows.sort(key=lambda row: (-row["visitors"], row["dimension"] or "", row["value"] or ""))
        ended = sum(row["dimension"] is None for row in rows[DESTINATIONS - 1:])
        kept = [row for place, row in enumerate(rows) if place < DESTINATIONS - ended or row["dimension"] is None]
        others = sum(went.values()) - sum(row["visitors"] for row in kept)
        return kept + ([{"dimension": "other", "value": None, "visitors": others}] if others else [])


def _looks_at_hits(node: list) -> bool:
    return not all(name.startswith("visit:") for name in filtered_dimensions([node]))


Place = tuple[int, tuple[int, int]]  # (the place of a visit in a block, the places between which its hits lie)


class FunnelWays:
    """A funnel, read off the ways that days have ready."""

    SHORT = 16  # hits of a visit: of these it is remembered what follows from them

    def __init__(self, db: sqlite3.Connection, site: Site, funnel: Funnel, filters: Sequence, ways: Iterable[tuple[int, Block]]):
        self._funnel, self._choice = funnel, Choice(db, site, [each for each in filters if not _looks_at_hits(each)])
        self._hit_tests = [self._choice.compile(each) for each in filters if _looks_at_hits(each)]
        self._tests = [[self._choice.compile(each) for each in step if _looks_at_hits(each)] for step in funnel.steps]
        self._visit_tests = [[self._choice.compile(each) for each in step if not _looks_at_hits(each)] for step in funnel.steps]
        self._known: dict[bytes, Sequence[int]] = {}
        self.counts = FunnelCounts(funnel)
        for sign, block in ways:
            self._add(block, sign)

    @staticmethod
    def is_possible(funnel: Funnel, filters: Sequence) -> bool:
        """Return whether days can tell: each filter looks at visits only, or at pages and names only."""
        every = [*filters, *(each for step in funnel.steps for each in step)]
        return not any(map(_has_behaviour, every)) and all(
            set(filtered_dimensions([each])) <= ({"event:page", "event:name"} if _looks_at_hits(each) else DIMENSIONS.keys()) for each in every)

    def _add(self, block: Block, sign: int) -> None:
        chosen, block = self._choice.visits(block), self._narrowed(block) if self._hit_tests else block
        ends = list(itertools.accumulate(block["events"]))
        passed = self._passed(block, ends)
        nodes = [2 * page if name == PAGEVIEW else 2 * name + 1 for name, page in zip(block["way/name"], block["way/page"])]
        visits: Iterable[Place] = enumerate(zip([0, *ends], ends))
        if chosen is not None:
            visits = itertools.compress(visits, chosen)
        if "visitor" not in block:
            self._count(block, sign, nodes, self._attempts(block, passed, visits))
        elif not self._funnel.window:
            self._count(block, sign, nodes, self._best(block, self._attempts(block, passed, visits)))
        else:
            self._add_over_visits(block, sign, passed, nodes, visits)

    def _narrowed(self, block: Block) -> Block:
        """Return a block with only those hits that pass the filters; visits may have none left."""
        count, ends = len(block["way/name"]), list(itertools.accumulate(block["events"]))
        mask = Choice.mask(self._hit_tests, lambda name, wanted: block.among(f"way/{name}", wanted), count).to_bytes(count, "little")
        way, kept = block["way"], bytes(map(mask.__getitem__, block["way"]))
        seconds: list[int] = []
        for start, end in zip([0, *ends], ends):
            times = list(itertools.compress(itertools.accumulate(block["way/seconds"][start:end]), kept[start:end]))
            seconds += map(operator.sub, times, [0, *times])
        return block.but({"way": list(itertools.compress(way, kept)), "way/seconds": seconds,
                          "events": [kept.count(1, start, end) for start, end in zip([0, *ends], ends)]})

    def _passed(self, block: Block, ends: Sequence[int]) -> bytes:
        """Return for each hit of a block, bit by bit, which steps it passes."""
        of_nodes = self._bits(self._tests, lambda name, wanted: block.among(f"way/{name}", wanted), len(block["way/name"]))
        passed = bytes(map(of_nodes.__getitem__, block["way"]))
        if not any(self._visit_tests):
            return passed
        of_visits = self._bits(self._visit_tests, block.among, len(block))
        kept = {bits: bytes(each & bits for each in range(256)) for bits in set(of_visits)}
        return b"".join(passed[start:end].translate(kept[bits]) for start, end, bits in zip([0, *ends], ends, of_visits))

    @staticmethod
    def _bits(steps: Sequence[Sequence[_Test]], among: Callable[[str, Wanted], int], count: int) -> list[int]:
        """Return for each number of some columns, bit by bit, of which steps it passes all tests."""
        passed = [0] * count
        for place, tests in enumerate(steps):
            mask = Choice.mask(tests, among, count).to_bytes(count, "little")
            passed = [bits | passes << place for bits, passes in zip(passed, mask)]
        return passed

    def _attempts(self, block: Block, passed: bytes, visits: Iterable[Place]) -> Iterator[tuple[Place, Sequence[int]]]:
        """Yield each visit with an attempt, and the places of its hits within the visit."""
        seconds, known = block["way/seconds"], {} if self._funnel.window else self._known
        for visit in visits:
            start, end = visit[1]
            chain = known.get(passed[start:end])
            if chain is None:
                chain = self._chain(passed[start:end], seconds, start)
            if chain:
                yield visit, chain

    def _chain(self, passed: bytes, seconds: Sequence[int], start: int) -> Sequence[int]:
        """Return the places of the best attempt among the hits of a visit, which pass what they pass."""
        window = self._funnel.window
        if len(passed) > self.SHORT or window and sum(seconds[start + 1:start + len(passed)]) > window:
            return self._funnel.places([(second << 16, 0, each, 0) for second, each in zip(itertools.accumulate(seconds[start:start + len(passed)]), passed)])
        if passed not in self._known:
            self._known[passed] = self._funnel.places([(0, 0, each, 0) for each in passed])
        return self._known[passed]

    @staticmethod
    def _best(block: Block, attempts: Iterable[tuple[Place, Sequence[int]]]) -> Iterable[tuple[Place, Sequence[int]]]:
        """Return of each visitor the longest attempt, or of equal ones that which began first."""
        visitors, seconds, best = block["visitor"], block["way/seconds"], dict[int, tuple]()
        for visit, chain in attempts:
            visitor, start = visitors[visit[0]], visit[1][0]
            rank = -len(chain), sum(seconds[start:start + 1 + chain[0]])
            if visitor not in best or rank < best[visitor][0]:
                best[visitor] = rank, (visit, chain)
        return [attempt for _, attempt in best.values()]

    def _count(self, block: Block, sign: int, nodes: list[int], attempts: Iterable[tuple[Place, Sequence[int]]]) -> None:
        way, seconds, last = block["way"], block["way/seconds"], [[] for _ in self.counts.went]
        for (_, (start, end)), chain in attempts:
            after = start + chain[-1] + 1
            last[len(chain)].append(way[after] if after < end else -1)
            for place in range(len(chain) - 1):
                self.counts.waits[place][sum(seconds[start + chain[place] + 1:start + chain[place + 1] + 1])] += sign
        for steps, after in enumerate(last):
            self.counts.ended[steps] += sign * len(after)
            for number, visitors in Counter(after).items():
                self.counts.went[steps][None if number < 0 else nodes[number]] += sign * visitors

    def _add_over_visits(self, block: Block, sign: int, passed: bytes, nodes: list[int], visits: Iterable[Place]) -> None:
        """Count visitors whose attempts may reach over visits."""
        way, seconds, visitors, of_visitor = block["way"], block["way/seconds"], block["visitor"], defaultdict(list)
        for visit, (start, end) in visits:
            if start < end:
                of_visitor[visitors[visit]].append((seconds[start], visit, start, end))
        for theirs in of_visitor.values():
            if any(each & 1 for _, _, start, end in theirs for each in passed[start:end]):
                self.counts.add(self._funnel.best([
                    (time << 16, visit, each, nodes[number]) for _, visit, start, end in sorted(theirs)
                    for time, each, number in zip(itertools.accumulate(seconds[start:end]), passed[start:end], way[start:end])]), sign)


class FunnelHits:
    """A funnel, read off the hits of a period.

    One pass gathers, visit by visit, those that matter. Visits that are over are given to their visitors, and visitors who cannot
    come again are counted, so that little is held at once.
    """

    def __init__(self, db: sqlite3.Connection, site: Site, funnel: Funnel, period: Period, filters: Sequence, check_time: Callable[[], None]):
        self._db, self._site, self._funnel, self._period, self._filters, self._check_time = db, site, funnel, period, filters, check_time
        self.counts = FunnelCounts(funnel)
        self._by_visit: dict[int, list] = {}
        self._visitors: list[dict[int, Any]] = [{}]  # by the day they were last seen
        self._settled = period.start << 16
        self._read()

    def _read(self) -> None:
        """Gather the hits that matter, and from day to day what follows from them."""
        strict, opens = self._funnel.order == "strict", -1 if self._funnel.window else 1  # -1: a visit may go on from an earlier one
        is_between = strict and self._funnel.window is not None  # a visit that goes on from none may end an attempt all the same
        by_visit, due = self._by_visit, self._settled + (86_400 << 16)
        for rows in self._chunks():
            for row in rows:
                hits = by_visit.get(row[1])
                if hits is None:
                    if row[2] & opens or is_between:
                        by_visit[row[1]] = [row]
                elif strict or row[2] or hits[-1][2]:  # the hit after one that passes may be where somebody went instead
                    hits.append(row)
            if rows[-1][0] >= due:
                self._settle(rows[-1][0])
                due = rows[-1][0] + (86_400 << 16)
        self._settle(2 ** 62)
        for kept in self._visitors:
            self._count(kept)

    def _chunks(self) -> Iterator[list[tuple]]:
        cursor = self._db.execute(*self._sql())
        for rows in iter(lambda: cursor.fetchmany(2_000), []):
            self._check_time()
            yield rows

    def _sql(self) -> tuple[str, dict[str, Any]]:
        """Return the statement of the hits to look at, as Hits; a visit's first hit may open an attempt, and ends one of strict order only."""
        binder = Binder()
        where = ReadyWhere(self._db, binder, self._site, self._period)
        steps, condition = [f"({where.compile(filters)})" for filters in self._funnel.steps], where.compile(self._filters)
        passed = " | ".join(f"(({step} is true) << {place})" for place, step in enumerate(steps))
        opening = "true" if self._funnel.window and self._funnel.order == "strict" else " or ".join(steps if self._funnel.window else steps[:1])
        source = _JOINED if re.search(r"\b[vco]\.", condition + passed) else "hits h"
        site, low, high = map(binder.bind, (self._site.id, self._period.start << 16, self._period.end << 16))
        return f"""
            select h.id, h.visit_id, {passed}, iif(h.name = {PAGEVIEW}, 2 * h.page, 2 * h.name + 1) from {source}
            where h.site_id = {site} and h.id >= {low} and h.id < {high} and {condition} and (h.since > 0 or {opening}) order by h.id""", binder.values

    def _settle(self, until: int) -> None:
        """Give the visits that were over before a hit's id to their visitors, and count the visitors who cannot come again."""
        older = json.dumps([visit_id for visit_id in self._by_visit if visit_id < self._settled])
        visits = self._db.execute("""
            select id, visitor, (id >> 16) + duration from visits where site_id = :site and id >= :low and id < :high union all
            select id, visitor, (id >> 16) + duration from visits where site_id = :site and id in (select value from json_each(:older))""",
                                  {"site": self._site.id, "low": self._settled, "high": min(until, self._period.end << 16), "older": older})
        for visit_id, visitor, over in visits:
            if visit_id in self._by_visit:
                self._give(visitor, self._by_visit.pop(visit_id) if over < until >> 16 else None)
        self._settled = until
        if not self._has_long_epochs:
            self._visitors.append({})
            if len(self._visitors) > 3:
                self._count(self._visitors.pop(0))

    @functools.cached_property
    def _has_long_epochs(self) -> bool:
        """Whether visitors may come again days later; else an epoch, of 25 hours at most, touches no more than three of ours."""
        return self._db.execute("select 1 from long_epochs where site_id = ? and starts_at < ? and ends_at > ?",
                                (self._site.id, self._period.end, self._period.start)).fetchone() is not None

    def _give(self, visitor: int, hits: list | None) -> None:
        """Note what a visitor did in a visit; None where it goes on, and is told when it is over."""
        kept = None
        for each in self._visitors:
            if visitor in each:
                kept = each.pop(visitor)
        self._visitors[-1][visitor] = kept if hits is None else self._joined(kept, hits)

    def _joined(self, before: Any, hits: list) -> Any:
        """Return what is kept of a visitor: all hits where there is a window, else the best attempt so far."""
        if self._funnel.window:
            return before + hits if before else hits if any(passed & 1 for _, _, passed, _ in hits) else None
        return _better(before, self._funnel.best(hits))

    def _count(self, visitors: Mapping[int, Any]) -> None:
        for kept in filter(None, visitors.values()):
            self.counts.add(self._funnel.best(sorted(kept)) if self._funnel.window else kept)


def _quartiles(counts: Counter[int]) -> dict[str, float] | None:
    """Return the quartiles of counted numbers, between two of them in proportion; None where there are no numbers."""
    values = sorted(counts.elements())
    if not values:
        return None
    return {name: _quantile(values, share) for name, share in (("lower_quartile", 0.25), ("median", 0.5), ("upper_quartile", 0.75))}


def _quantile(values: Sequence[int], share: float) -> float:
    place, part = divmod((len(values) - 1) * share, 1)
    low, high = values[int(place)], values[min(int(place) + 1, len(values) - 1)]
    return round(low + (high - low) * part, 2)


# ---- journeys --------------------------------------------------------------------------------------------------------
# What visits did before and after something. A journey is told as nodes: pageviews by their page, custom events by their name.

JOURNEY_STEPS, JOURNEY_ROWS = 10, 100  # at most
OTHER_ROW, ENDED = -1, -2  # what links name beside the rows of a step
_JOURNEY_KEYS = ("site_id", "date_range", "filters", "start", "direction", "steps", "limit", "path")


@dataclass(frozen=True)
class Journey:
    """What a body of /api/journeys asks, checked. `path` names nodes as (dimension, value), None where any may be."""

    date_range: Any
    filters: tuple
    start: tuple
    is_forward: bool
    steps: int
    limit: int
    path: tuple[tuple[str, str] | None, ...]


def read_journey(body: Mapping[str, Any], definitions: Definitions = Definitions()) -> Journey:
    """Return the Journey of a body. Raises InvalidInput, which names the field."""
    check_keys(body, _JOURNEY_KEYS)
    form = Form(body)
    direction = _check_choice(form, body, "direction", ("next", "previous"), "next")
    steps = form.integer("steps", least=1, most=JOURNEY_STEPS) or 3
    limit = form.integer("limit", least=1, most=JOURNEY_ROWS) or 8
    path = _read_path(form, body.get("path"), steps)
    form.check()
    return Journey(body.get("date_range"), read_filters(body.get("filters"), definitions), _read_start(body.get("start"), definitions),
                   direction == "next", steps, limit, path)


def _read_path(form: Form, path: Any, steps: int) -> tuple[tuple[str, str] | None, ...]:
    nodes = [] if path is None else path
    if not isinstance(nodes, list) or not all(each is None or isinstance(each, list) and len(each) == 2 and each[0] in ("event:page", "event:name")
                                              and isinstance(each[1], str) and len(each[1]) <= PAGE_LIMIT for each in nodes):
        form.fail("path", "must be a list of null, [\"event:page\", page] or [\"event:name\", event]")
    elif len(nodes) > steps:
        form.fail("path", f"must not be longer than the {steps} steps")
    else:
        return tuple(each and (each[0], each[1]) for each in nodes)
    return ()


def _read_start(value: Any, definitions: Definitions) -> tuple:
    if not isinstance(value, list) or not value:
        raise InvalidInput.of("start", "must be a filter such as [\"is\", \"event:page\", [\"/pricing\"]]")
    try:
        return read_filters([value], definitions)
    except InvalidInput as error:
        raise InvalidInput.of("start", error.details[0]["message"]) from error


def run_journeys(db: sqlite3.Connection, site: Site, bodies: Sequence[Mapping[str, Any]], now: float, seconds: float = math.inf,
                 definitions: Definitions = Definitions()) -> tuple[list[dict], None]:
    """Answer bodies of /api/journeys, as Answers has it done. Raises InvalidInput."""
    answers = []
    for body in bodies:
        journey = read_journey(body, definitions)
        period = read_period(journey.date_range, site.zone, now, lambda: _earliest(db, site))
        asked = {"site_id": site.domain, "date_range": period.iso(), "filters": body.get("filters") or [], "start": body["start"],
                 "direction": "next" if journey.is_forward else "previous", "steps": journey.steps, "limit": journey.limit, "path": journey.path}
        answers.append({**Ways(db, site, journey, period).as_json(), "meta": {}, "query": asked})
    return answers, None


class Ways:
    """The ways that visits took from where a journey starts, each with how many visits took it.

    A way is a tuple of nodes. A node is one number: twice the id of a page, or twice the id of an event's name and one.
    """

    def __init__(self, db: sqlite3.Connection, site: Site, journey: Journey, period: Period):
        self._db, self._site, self._journey, self._period = db, site, journey, period
        self._visits: Counter[tuple[int, ...]] = Counter()
        self._visitors: Counter[tuple[int, int]] = Counter()  # (place in the way, node) → how many
        self._count()

    def _count(self) -> None:
        rows = self._db.execute(*self._sql())
        for _, ways in itertools.groupby(self._walk(rows), operator.itemgetter(0)):  # a visitor's visits are neighbours
            seen: set[tuple[int, int]] = set()
            for _, way in ways:
                self._visits[way] += 1
                seen.update(enumerate(way))
            self._visitors.update(seen)

    def _walk(self, rows: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Yield (visitor, way) of each visit that follows the path, of rows (visitor, visit, node): what is repeated at once is one node."""
        path, longest = self._path(), self._journey.steps + 1
        for (visitor, _), hits in itertools.groupby(rows, operator.itemgetter(0, 1)):
            nodes = map(operator.itemgetter(0), itertools.groupby(map(operator.itemgetter(2), hits)))
            way = tuple(itertools.islice(nodes, 1, longest))
            if not path or all(len(way) > place and way[place] == node for place, node in path):
                yield visitor, way

    def _path(self) -> list[tuple[int, int]]:
        """Return [(place in the way, node)] that the path asks for; -1 is a node that there is nowhere."""
        wanted = [(place, *node) for place, node in enumerate(self._journey.path) if node]
        known = dict(self._db.execute("select text, id from texts where text in (select value from json_each(?))",
                                      (json.dumps([value for _, _, value in wanted]),)))
        return [(place, 2 * known[value] + (dimension == "event:name") if value in known else -1) for place, dimension, value in wanted]

    def _sql(self) -> tuple[str, dict[str, Any]]:
        """Return the statement of the hits from the start on, visit by visit, and its values.

        `started` are the visits with the start in the period. They are followed to their true ends, beyond the period too.
        """
        binder, period = Binder(), self._period
        where = Where(binder, self._site, period)
        condition = f"{where.compile(self._journey.start)} and {where.compile_visits(self._journey.filters)}"
        site, low, high = (binder.bind(value) for value in (self._site.id, period.start << 16, period.end << 16))
        stretch, order = ("h.id >= first and h.id >= (select min(first) from started) and h.id < (select max(over) from started)", "") \
            if self._journey.is_forward else ("h.id <= first and h.id >= (select min(visit_id) from started) and h.id <= (select max(first) from started)", "desc")
        return f"""
            with started as materialized (
                select h.visit_id, v.visitor, min(h.id) as first, ((v.id >> 16) + v.duration + 1) << 16 as over from {_JOINED}
                where h.site_id = {site} and h.id >= {low} and h.id < {high} and {condition} group by h.visit_id)
            select visitor, s.visit_id, iif(h.name = {PAGEVIEW}, 2 * h.page, 2 * h.name + 1)
            from hits h cross join started s on s.visit_id = h.visit_id
            where h.site_id = {site} and {stretch} order by visitor, s.visit_id, h.id {order}""", binder.values

    def as_json(self) -> dict[str, Any]:
        """Return {"visits", "steps", "links"}."""
        steps = [Counter() for _ in range(self._journey.steps)]
        for way, visits in self._visits.items():
            for step, node in zip(steps, way):
                step[node] += visits
        rows = list(map(self._rows, steps))
        total = sum(self._visits.values())
        return {"visits": total, "steps": [self._step(place, total, *each) for place, each in enumerate(zip(steps, rows))], "links": self._links(rows)}

    def _rows(self, step: Counter[int]) -> list[tuple[int, str]]:
        """Return [(node, its text)] of a step that have a row: those that most visits went to, of equal ones by the text."""
        least = min(heapq.nlargest(self._journey.limit, step.values()), default=0)
        nodes = [node for node, visits in step.items() if visits >= least]
        texts = dict(self._db.execute("select id, text from texts where id in (select value from json_each(?))", (json.dumps([node >> 1 for node in nodes]),)))
        return sorted(((node, texts[node >> 1]) for node in nodes), key=lambda row: (-step[row[0]], row[1], row[0]))[:self._journey.limit]

    def _step(self, place: int, total: int, step: Counter[int], rows: list[tuple[int, str]]) -> dict[str, Any]:
        told = [{"dimension": "event:name" if node & 1 else "event:page", "value": text, "visits": step[node], "visitors": self._visitors[place, node]}
                for node, text in rows]
        went_on = sum(step.values())
        return {"rows": told, "other": {"values": len(step) - len(rows), "visits": went_on - sum(step[node] for node, _ in rows)}, "ended": total - went_on}

    def _links(self, rows: list[list[tuple[int, str]]]) -> list[list[int]]:
        """Return [[place of a step, its row, row of the next step, visits]]."""
        places = [{node: place for place, (node, _) in enumerate(each)} for each in rows]
        links: Counter[tuple[int, int, int]] = Counter()
        for way, visits in self._visits.items():
            stops = [of.get(node, OTHER_ROW) for of, node in zip(places, way)] + [ENDED] * (len(way) < len(rows))
            for step, pair in enumerate(zip(stops, stops[1:])):
                links[step, *pair] += visits
        return [[*link, visits] for link, visits in sorted(links.items())]


# ---- retention -------------------------------------------------------------------------------------------------------
# Who came back. A visitor is known for as long as their epoch lasts and not a moment longer, so that much of what one would like
# to know cannot be known, by anybody: that is None, never 0.

# The hours of rotation from which on epochs have two such intervals, one after the other, as a rule.
RETURNING_HOURS = {"day": 48, "week": 336}
MAX_COHORTS = 400  # a year of days
_LONGEST_DAY = 90_000  # s; no epoch that is not in long_epochs is longer
_RETENTION_KEYS = ("site_id", "date_range", "filters", "interval")


def run_retention(db: sqlite3.Connection, site: Site, bodies: Sequence[Mapping[str, Any]], now: float, seconds: float = math.inf,
                  definitions: Definitions = Definitions()) -> tuple[list[dict], None]:
    """Answer bodies of /api/retention, as Answers has it done. Raises InvalidInput."""
    answers = []
    for body in bodies:
        check_keys(body, _RETENTION_KEYS)
        form = Form(body)
        interval = _check_choice(form, body, "interval", RETURNING_HOURS)
        form.check()
        filters = read_filters(body.get("filters"), definitions)
        period = read_period(body.get("date_range"), site.zone, now, lambda: _earliest(db, site))
        asked = {"site_id": site.domain, "date_range": period.iso(), "filters": body.get("filters") or [], "interval": interval}
        answers.append({**Retention(db, site, period, interval, filters, now).as_json(), "meta": {}, "query": asked})
    return answers, None


def whole_intervals(period: Period, interval: str) -> list[Bucket]:
    """Return the days or weeks that a period touches, not cut off at its edges. Raises InvalidInput where they are too many."""
    first, last = period.first, period.last
    if (last - first).days // (7 if interval == "week" else 1) >= MAX_COHORTS:
        raise InvalidInput.of("interval", f"{interval} gives more than {MAX_COHORTS} cohorts for this period; take a longer interval or a shorter period")
    if interval == "week":
        first, last = first - timedelta(days=first.weekday()), last + timedelta(days=6 - last.weekday())
    return buckets_of(Period.of_days(first, last, period.zone), interval)


class Retention:
    """The visitors who first came in the intervals of a period, and in which later ones they were seen again.

    A cohort is those who came in one interval and within one stretch of time: a long epoch, or what lies between two of them.
    """

    def __init__(self, db: sqlite3.Connection, site: Site, period: Period, interval: str, filters: Sequence, now: float):
        self._db, self._site, self._period, self._interval, self._filters, self._now = db, site, period, interval, filters, now
        self._intervals = whole_intervals(period, interval)
        self._epochs = db.execute("select starts_at, ends_at from long_epochs where site_id = ? and ends_at > ? and starts_at < ? order by starts_at",
                                  (site.id, period.start, self._intervals[-1].end)).fetchall()
        self._edges = sorted({edge for epoch in self._epochs for edge in epoch})
        self._first: dict[tuple[int, int], int] = {}  # cohort → the first visit of anybody in it, filtered or not
        self._visitors: Counter[tuple[int, int]] = Counter()  # cohort → how many
        self._seen: Counter[tuple[tuple[int, int], int]] = Counter()  # (cohort, interval) → how many of them

    def as_json(self) -> dict[str, Any]:
        """Return {"cohorts", "interval", "intervals"}, and "needs" where the site's rotation leaves nothing to know."""
        is_short = self._site.rotation_hours < RETURNING_HOURS[self._interval]
        if self._epochs or not is_short:
            self._count()
        cohorts = [self._cohort(*each) for each in self._labelled()]
        columns = max((1 + place for each in cohorts for place, seen in enumerate(each["returned"]) if seen is not None), default=0)
        if is_short and columns < 2:
            return {"cohorts": [], "interval": self._interval, "intervals": 0, "needs": self._needs()}
        for each in cohorts:
            each["returned"] = (each["returned"] + [None] * columns)[:columns]
        return {"cohorts": [each for each in cohorts if each["visitors"]], "interval": self._interval, "intervals": columns}

    def _needs(self) -> dict[str, Any]:
        hours, wanted = self._site.rotation_hours, RETURNING_HOURS[self._interval]
        return {"rotation_hours": hours, "wanted_hours": wanted,
                "reason": f"After {say_hours(hours)} a visitor cannot be told from a new one, so nobody can be seen to return the {self._interval} after.",
                "cost": f"Whoever has the database could then find out of an address and a browser whether and when they were here, for {say_hours(wanted)} "
                        f"instead of {say_hours(hours)}."}

    def _count(self) -> None:
        starts, low, high = [each.start << 16 for each in self._intervals], self._period.start << 16, self._period.end << 16
        for _, rows in itertools.groupby(self._db.execute(*self._sql()), operator.itemgetter(0)):
            _, first, is_chosen = next(rows)
            if not low <= first < high:
                continue
            cohort = bisect.bisect(starts, first) - 1, bisect.bisect(self._edges, first >> 16)
            self._first[cohort] = min(first, self._first.get(cohort, first))
            if is_chosen:
                self._visitors[cohort] += 1
                self._seen.update({(cohort, bisect.bisect(starts, moment) - 1) for _, moment, _ in rows})

    def _sql(self) -> tuple[str, dict[str, Any]]:
        """Return the statement of (visitor, moment, whether the filters choose it) of all visits, visitor by visitor, and its values.

        It looks back to the beginning of epochs that reach into the period: whoever came before it belongs to no cohort of it.
        Where a visit goes on in a later interval, its hits there are moments too.
        """
        binder, source = Binder(), "visits v"
        condition = Where(binder, self._site, self._period).compile_visits(self._filters)
        if self._filters:  # of each visit its first hit, which stands for it
            source += """ cross join hits h on h.site_id = v.site_id and h.id = v.id
                left join clients c on c.id = v.client_id left join origins o on o.id = v.origin_id"""
        low = min([self._period.start - _LONGEST_DAY, *(starts_at for starts_at, _ in self._epochs)])
        site, low, high, intervals = map(binder.bind, (self._site.id, low << 16, self._intervals[-1].end << 16, json.dumps(
            [(each.start << 16, each.end << 16) for each in self._intervals])))
        return f"""
            with intervals as materialized (
                select json_extract(value, '$[0]') as low, json_extract(value, '$[1]') as high from json_each({intervals}))
            select v.visitor, v.id as moment, {condition} from {source} where v.site_id = {site} and v.id >= {low} and v.id < {high}
            union all
            select v.visitor, h.id, false from intervals cross join visits v cross join hits h
            where v.site_id = {site} and v.id >= low and v.id < intervals.high and (v.id >> 16) + v.duration >= intervals.high >> 16
                and h.site_id = {site} and h.id >= intervals.high and h.id < min({high}, ((v.id >> 16) + v.duration + 1) << 16) and h.visit_id = v.id
            order by 1, 2""", binder.values

    def _labelled(self) -> list[tuple[str, list[tuple[int, int]]]]:
        """Return [(the local date that a row starts on, its cohorts)].

        An interval's first cohort has its date. A later one, of the next epoch, has the day on which that was first seen, and where
        this is the same day both are one row.
        """
        rows: dict[str, list[tuple[int, int]]] = {}
        begun: set[int] = set()
        for cohort in sorted(self._first):
            label = self._intervals[cohort[0]].label
            if cohort[0] in begun and self._interval != "day":
                label = local_date(self._first[cohort] >> 16, self._site.zone).isoformat()
            begun.add(cohort[0])
            rows.setdefault(label, []).append(cohort)
        return list(rows.items())

    def _cohort(self, label: str, cohorts: list[tuple[int, int]]) -> dict[str, Any]:
        visitors, known_until = sum(self._visitors[each] for each in cohorts), min(self._now, *(self._epoch_end(stretch) for _, stretch in cohorts))
        place = cohorts[0][0]
        returned = [sum(self._seen[each, later] for each in cohorts) if self._intervals[later].end <= known_until else None
                    for later in range(place + 1, len(self._intervals))]
        return {"start": label, "visitors": visitors, "returned": [visitors, *returned]}

    def _epoch_end(self, stretch: int) -> float:
        """Return the end of the long epoch that a stretch is; of one between them nothing is known beyond it."""
        begins = self._edges[stretch - 1] if stretch else None
        return next((ends_at for starts_at, ends_at in self._epochs if starts_at == begins), -math.inf)


def say_hours(hours: int) -> str:
    """Return hours as people say them."""
    for unit, length in (("week", 168), ("day", 24), ("hour", 1)):
        if hours % length == 0:
            count = hours // length
            return f"{count} {unit}{'s' * (count != 1)}"
    return ""


# ---- demo ------------------------------------------------------------------------------------------------------------
# Made-up visits, to try the dashboard with and to measure by. They are drawn from the tables below, one chunk of time after the
# other, and become the rows that the collector would have written: origins, screen classes, epochs, ids of texts and the sums of a
# visit all come from its own functions. The generator is seeded, so that the same call gives the same rows; it guards nothing.

DEMO_LIMITS = {"pageviews": (1, 1_000_000_000), "days": (1, 3650), "paths": (20, 200_000)}
DEMO_SITE, DEMO_PAGEVIEWS = "demo.example", 100_000  # unless told otherwise
DEMO_CHUNK = 5_000  # pageviews made up and written at a time: bounds the memory, and how long others wait for the writer
DEMO_TABLES = ("visits", "hits", "props", "revenue")
DEMO_VISITORS = 2_000  # visitors of the epoch that are remembered, since they may come back
DEMO_RETURNING = 0.2  # how often a visit looks for one of them to be of; it finds none whose last visit was just now
DEMO_GPC = 0.04  # visitors who send Sec-GPC
DEMO_DROPPED = {"bot": 0.04, "no-visit": 0.005, "spam": 0.003, "hostname": 0.001}  # per pageview

_DEMO_WEEK = (1.0, 1.06, 1.05, 1.02, 0.92, 0.62, 0.66)  # Monday first
_DEMO_WORKDAY = (14, 9, 6, 5, 5, 8, 16, 32, 58, 82, 94, 92, 80, 86, 96, 94, 86, 72, 58, 54, 58, 56, 42, 26)  # by local hour
_DEMO_DAY_OFF = (22, 15, 10, 7, 6, 7, 11, 20, 36, 54, 68, 74, 72, 70, 72, 74, 74, 72, 70, 74, 80, 74, 56, 36)

# share, country, its languages as share:language
_DEMO_COUNTRIES = """
26 US 93:en 7:es       | 12 DE 88:de 12:en      | 8 GB 97:en 3:pl        | 6 FR 92:fr 8:en        | 6 IN 84:en 16:hi
4.5 CA 77:en 23:fr     | 4.5 NL 76:nl 24:en     | 3.5 BR 96:pt 4:en      | 3 ES 92:es 8:en        | 3 IT 94:it 6:en
2.5 PL 90:pl 10:en     | 2.5 AU 98:en 2:zh      | 2.2 CH 62:de 24:fr 14:en | 2.2 SE 78:sv 22:en   | 2 JP 97:ja 3:en
1.8 AT 92:de 8:en      | 1.5 BE 56:nl 36:fr 8:en | 1.2 CZ 91:cs 9:en     | 1.2 DK 82:da 18:en     | 1.1 FI 80:fi 20:en
1.1 NO 81:nb 19:en     | 1.1 PT 91:pt 9:en      | 1 MX 95:es 5:en        | 1 IE 98:en 2:pl        | 1 UA 84:uk 16:en
0.9 RO 86:ro 14:en     | 0.9 TR 95:tr 5:en      | 0.8 KR 96:ko 4:en      | 0.8 ID 88:id 12:en     | 0.7 SG 80:en 20:zh
0.7 ZA 97:en 3:af      | 0.6 NZ 99:en 1:zh      | 0.6 AR 96:es 4:en      | 0.5 GR 86:el 14:en     | 0.4 IL 82:he 18:en
0.4 VN 92:vi 8:en      | 0.3 NG 99:en 1:fr      | 0.3 KE 97:en 3:fr      | 0.3 CL 96:es 4:en      | 0.2 IS 84:is 16:en
"""
_DEMO_EURO = frozenset("DE FR NL ES IT AT BE FI PT IE GR".split())

# share | device | system | its versions, commonest first | widths in CSS pixels | browsers as share:name:versions, = as the system's
_DEMO_PLATFORMS = """
34   | Desktop | Windows  | 10                  | 1920 1536 1366 2560 1280 | 68:Chrome:141,140,139 21:Edge:141,140 11:Firefox:144,143
15   | Desktop | macOS    | 10.15               | 1440 1728 1512 1280 2560 | 50:Safari:18,26,17 41:Chrome:141,140,139 9:Firefox:144,143
4    | Desktop | Linux    | -                   | 1920 2560 1440           | 52:Firefox:144,143,140 48:Chrome:141,140,139
1    | Desktop | ChromeOS | 14541.0             | 1366 1536                | 100:Chrome:141,140
24   | Mobile  | Android  | 10 15 14 13         | 412 360 393 384          | 87:Chrome:141,140 9:Samsung_Internet:28,27 4:Firefox:144,143
18.5 | Mobile  | iOS      | 18.6 18.5 26.0 17.6 | 393 390 430 375          | 93:Safari:= 7:Chrome:141,140
2    | Tablet  | iOS      | 18.6 17.6 16.7      | 820 768 810 1024         | 96:Safari:= 4:Chrome:141,140
1.5  | Tablet  | Android  | 14 13 12            | 800 1280                 | 78:Chrome:141,140,139 22:Samsung_Internet:28,27
"""

_DEMO_PAGES = ("/", "/pricing", "/features", "/docs", "/blog", "/docs/getting-started", "/blog/without-cookies", "/changelog",
               "/about", "/signup", "/docs/api", "/blog/year-in-numbers", "/download", "/contact", "/checkout", "/careers", "/imprint")
_DEMO_FIRST_WORDS = """quiet small honest plain quick gentle bright useful early modern simple open steady clever local private
                       lasting careful friendly light""".split()
_DEMO_SECOND_WORDS = """numbers servers pages visits charts readers backups queries goals funnels filters letters notes habits
                        gardens bridges lanterns harbours orchards compasses""".split()

# share | referrer, after https:// | entry page | its address's query; - for none, and for any page
_DEMO_ARRIVALS = """
15  | -                         | /                     | -
13  | -                         | -                     | -
5   | www.google.com/           | /                     | -
21  | www.google.com/           | -                     | -
2.6 | www.bing.com/             | -                     | -
2.4 | duckduckgo.com/           | -                     | -
0.6 | search.brave.com/         | -                     | -
0.5 | www.ecosia.org/           | -                     | -
0.4 | kagi.com/                 | -                     | -
2.6 | www.google.com/           | /                     | utm_source=google&utm_medium=cpc&utm_campaign=brand&utm_term=mini+numbers&gclid=1
1.4 | www.google.com/           | /features             | utm_source=google&utm_medium=cpc&utm_campaign=rivals&utm_term=web+stats&gclid=1
0.7 | www.bing.com/             | /features             | utm_source=bing&utm_medium=cpc&utm_campaign=rivals&msclkid=1
1.1 | www.facebook.com/         | /pricing              | utm_source=facebook&utm_medium=paid_social&utm_campaign=launch&utm_content=slides
0.6 | instagram.com/            | /pricing              | utm_source=instagram&utm_medium=paid_social&utm_campaign=launch&utm_content=story
0.6 | adverts.example/          | /                     | utm_source=adverts&utm_medium=display&utm_campaign=launch&utm_content=banner
0.9 | www.linkedin.com/feed/    | /                     | utm_source=linkedin&utm_medium=social&utm_campaign=launch
0.7 | l.facebook.com/           | -                     | fbclid=1
1.8 | t.co/                     | -                     | -
1.3 | news.ycombinator.com/     | /blog/without-cookies | -
1.6 | reddit.com/r/selfhosted/  | -                     | -
0.6 | bsky.app/                 | -                     | -
0.7 | mastodon.social/          | /blog                 | -
0.9 | www.youtube.com/watch     | /features             | -
0.3 | -                         | /docs/getting-started | utm_source=youtube&utm_medium=video&utm_campaign=tutorial
2.2 | chatgpt.com/              | -                     | utm_source=chatgpt.com
0.7 | www.perplexity.ai/        | -                     | -
0.4 | claude.ai/                | -                     | -
0.3 | gemini.google.com/        | -                     | -
2.8 | -                         | /changelog            | utm_source=newsletter&utm_medium=email&utm_campaign=digest
1.2 | -                         | /docs/getting-started | utm_source=newsletter&utm_medium=email&utm_campaign=welcome
0.8 | mail.google.com/          | -                     | -
2.4 | github.com/topics/privacy | /docs                 | -
0.5 | en.wikipedia.org/         | /                     | -
0.8 | partners.example/tools    | /pricing              | utm_source=partners&utm_medium=affiliate&utm_campaign=autumn
0.4 | -                         | /                     | ref=producthunt
0.3 | -                         | /                     | utm_source=podcast&utm_medium=audio&utm_campaign=autumn
0.2 | -                         | /changelog            | utm_source=app&utm_medium=push&utm_campaign=release
"""
_DEMO_SURGES = """
1   | news.ycombinator.com/     | /blog/year-in-numbers | -
1   | reddit.com/r/webdev/      | /blog/without-cookies | -
"""

# share of visits in percent | event | interactive | the visit's last pages, - for any | property | its values
_DEMO_ACTIONS = """
7 | Outbound Link: Click | yes | -                  | url   | https://github.com/ https://bottlepy.org/ https://sqlite.org/wal.html
3 | File Download        | yes | -                  | url   | https://{domain}/files/handbook.pdf https://{domain}/files/mininumbers.zip
5 | signup               | yes | /pricing /signup   | plan  | free free free starter team
3 | purchase             | yes | /pricing /checkout | plan  | starter starter team business
4 | newsletter shown     | no  | -                  | place | footer popup
"""
_DEMO_PRICES = {"starter": 900, "team": 2_900, "business": 9_900}  # a month, in cents; one in four pays ten months for a year


class DemoStep(NamedTuple):
    """A stretch of at most an hour, in unix seconds, and how many pageviews the visits have that begin in it."""

    start: int
    end: int
    pageviews: float  # a share of any size, until the whole is known
    surge: float = 0.0  # the part of its visits that a surge brings
    surging: int = 0  # which surge


class DemoArrival(NamedTuple):
    """How a visit begins: its Origin as a row, the same where only the referrer's host is stored, and the page, "" for any."""

    origin: tuple[str, ...]
    private: tuple[str, ...]
    entry: str


class DemoAction(NamedTuple):
    """A custom event that a visit may end in, or have on any of its pages."""

    name: str
    interactive: bool
    pages: tuple[str, ...]
    key: str
    values: tuple[str, ...]


class DemoEvent(NamedTuple):
    """A custom event of one visit: on which of its pageviews, counted from 0, and what it says."""

    action: DemoAction
    place: int
    value: str
    revenue: tuple[int, str] | None


class DemoReading(NamedTuple):
    """A look at a page: seconds until it is left, and what an engagement message then tells; engaged 0 where none arrives."""

    seconds: int
    engaged: int
    scroll: int | None


class DemoPlan(NamedTuple):
    """A visit as drawn, in words; `client` and `origin` are rows of texts."""

    start: int
    visitor: int
    client: tuple[str, ...]
    origin: tuple[str, ...]
    pages: list[str]
    readings: list[DemoReading]
    event: DemoEvent | None


@dataclass
class DemoVisitor:
    """Somebody who may come back within the epoch."""

    visitor: int
    client: tuple[str, ...]
    left: int


def _demo_table(text: str) -> list[list[str]]:
    """Return the cells of a table above; - is an empty one."""
    return [["" if (cell := part.strip()) == "-" else cell for part in line.split("|")] for line in text.strip().splitlines()]


def _pick(random: Random, pairs: str) -> str:
    """Return one of "share:value share:value …", by its share."""
    shares, values = zip(*(pair.split(":", 1) for pair in pairs.split()))
    return random.choices(values, list(map(float, shares)))[0]


def _newest(random: Random, values: Sequence[str]) -> str:
    """Return one of `values`, each half as often as the one before."""
    return values[min(int(random.expovariate(math.log(2))), len(values) - 1)]


def demo_paths(count: int) -> list[str]:
    """Return `count` different paths, the most visited first."""
    paths = list(_DEMO_PAGES)
    for number in range(count - len(paths)):
        round_, place = divmod(number, len(_DEMO_FIRST_WORDS) * len(_DEMO_SECOND_WORDS))
        second, first = divmod(place, len(_DEMO_FIRST_WORDS))
        name = f"{_DEMO_FIRST_WORDS[(first + second) % len(_DEMO_FIRST_WORDS)]}-{_DEMO_SECOND_WORDS[second]}"
        paths.append(f"/{('blog', 'docs', 'guides')[number % 3]}/{name}" + (f"-{round_ + 1}" if round_ else ""))
    return paths


def demo_clients(random: Random, site: Site, count: int = 3_000) -> list[tuple[str, ...]]:
    """Return rows of Clients, drawn one by one, so that a common one is there many times; each as the site's mode stores it."""
    countries = [country.split() for line in _demo_table(_DEMO_COUNTRIES) for country in line]
    platforms = _demo_table(_DEMO_PLATFORMS)
    homes = random.choices(countries, [float(share) for share, *_ in countries], k=count)
    machines = random.choices(platforms, [float(share) for share, *_ in platforms], k=count)
    return [_client_row(_demo_client(random, site, *drawn)) for drawn in zip(homes, machines)]


def _demo_client(random: Random, site: Site, home: list[str], machine: list[str]) -> Client:
    if site.gpc == "paranoid" and random.random() < DEMO_GPC:
        return Client()
    _, country, *languages = home
    _, device, system, versions, widths, browsers = machine
    system_version = _newest(random, versions.split() or [""])
    browser, releases = _pick(random, browsers).split(":")
    release = system_version.partition(".")[0] if releases == "=" else _newest(random, releases.split(","))
    return reduce_client(Client(
        country=country, browser=browser.replace("_", " "), browser_version=release, os=system, os_version=system_version, device=device,
        language=_pick(random, " ".join(languages)), screen=screen_of(int(_newest(random, widths.split())))), site.mode)


def demo_arrivals(site: Site, table: str) -> tuple[list[DemoArrival], list[float]]:
    """Return ([arrival], [its share]) of a table, whose channels and sources the product's own rules tell."""
    rows = _demo_table(table)
    return [_demo_arrival(site, *row[1:]) for row in rows], [float(row[0]) for row in rows]


def _demo_arrival(site: Site, referrer: str, entry: str, query: str) -> DemoArrival:
    referrer = referrer and f"https://{referrer}"
    private = _origin_row(origin_of(query, referrer, site.owns, host_only=True))
    return DemoArrival(private if site.mode == "paranoid" else _origin_row(origin_of(query, referrer, site.owns)), private, entry)


def _demo_links() -> str:
    """Return a table of many small sites that link to this one, by Zipf's law."""
    return "\n".join(f"{1.6 / rank:.4f} | {first}-{second}.example/links | - | -"
                     for rank, (first, second) in enumerate(zip(_DEMO_FIRST_WORDS * 4, sorted(_DEMO_SECOND_WORDS * 4)), start=1))


def demo_readings(random: Random, count: int = 10_000) -> list[DemoReading]:
    """Return readings to draw from: mostly under a minute, some long, never as long as to end the visit."""
    readings = []
    for _ in range(count):
        seconds = int(min(max(random.lognormvariate(3.5, 1.1), 1), VISIT_TIMEOUT - 60))
        told = random.random() < 0.9
        scroll = int(min(100, 12 + 22 * math.log(seconds + 1) * random.uniform(0.3, 1.2)))
        readings.append(DemoReading(seconds, int(seconds * 1000 * random.uniform(0.4, 1)) if told else 0, scroll if told else None))
    return readings


def demo_steps(random: Random, site: Site, now: int, days: int, pageviews: int) -> list[DemoStep]:
    """Return the steps of the `days` whole days before today and of today until now, which share out exactly `pageviews`."""
    hours = list(_demo_hours(random, site.zone, now, days))
    total = sum(hour.pageviews for hour in hours)
    pieces = math.ceil(max(hour.pageviews for hour in hours) / total * pageviews / DEMO_CHUNK)
    steps, done, passed = [], 0, 0.0
    for hour in hours:
        length = hour.end - hour.start
        for piece in range(pieces):
            passed += hour.pageviews / pieces
            due = round(pageviews * passed / total)
            if due > done:
                steps.append(hour._replace(start=hour.start + length * piece // pieces, end=hour.start + length * (piece + 1) // pieces,
                                           pageviews=due - done))
                done = due
    return steps


def _demo_hours(random: Random, zone: zoneinfo.ZoneInfo, now: int, days: int) -> Iterator[DemoStep]:
    """Yield every hour with its share: growing slowly, by weekday and hour, with a little noise and some surges."""
    first = local_date(now, zone) - timedelta(days=days)
    surges = _demo_surges(random, days)
    for number in range(days + 1):
        day = first + timedelta(days=number)
        start, end = midnight(day, zone), midnight(day + timedelta(days=1), zone)
        surge, surging = surges.get(number, (0.0, 0))
        weight = (1 + number / 500) * _DEMO_WEEK[day.weekday()] * random.lognormvariate(0, 0.07) / (1 - surge)
        for hour, second in enumerate(range(start, min(end, now), 3600)):
            share = (_DEMO_DAY_OFF if day.weekday() > 4 else _DEMO_WORKDAY)[hour % 24]
            length = min(second + 3600, end, now) - second
            yield DemoStep(second, second + length, weight * share * length / 3600, surge, surging)


def _demo_surges(random: Random, days: int) -> dict[int, tuple[float, int]]:
    """Return {number of the day: (the part of its visits that a surge brings, which surge)}: about one a month, gone after three days."""
    surges = {}
    for day in random.sample(range(days), days // 30):
        part, surging = random.uniform(0.4, 0.7), random.randrange(len(_demo_table(_DEMO_SURGES)))
        surges.update({day + after: (part * fading, surging) for after, fading in enumerate((1, 0.5, 0.2))})
    return surges


def _demo_chunks(steps: Iterable[DemoStep]) -> Iterator[list[DemoStep]]:
    """Group steps into chunks of about DEMO_CHUNK pageviews."""
    chunk: list[DemoStep] = []
    pageviews = 0
    for step in steps:
        chunk.append(step)
        pageviews += step.pageviews
        if pageviews >= DEMO_CHUNK:
            yield chunk
            chunk, pageviews = [], 0
    if chunk:
        yield chunk


class DemoNames:
    """The ids of the texts, clients and origins that were used so far."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}
        self.clients: dict[tuple[str, ...], int] = {}
        self.origins: dict[tuple[str, ...], int] = {}

    def learn(self, db: sqlite3.Connection, plans: Sequence[DemoPlan], texts: Iterable[str]) -> None:
        """Learn what plans use for the first time; the order of what is new is theirs, so that ids do not depend on hashes."""
        clients = [each for each in dict.fromkeys(plan.client for plan in plans) if each not in self.clients]
        origins = [each for each in dict.fromkeys(plan.origin for plan in plans) if each not in self.origins]
        pages = itertools.chain.from_iterable(plan.pages for plan in plans)
        fresh = [each for each in dict.fromkeys(itertools.chain(texts, pages)) if each not in self.texts]
        if fresh or clients or origins:
            self._intern(db, fresh, clients, origins)

    def _intern(self, db: sqlite3.Connection, fresh: list[str], clients: list[tuple[str, ...]], origins: list[tuple[str, ...]]) -> None:
        words = list(dict.fromkeys(itertools.chain(fresh, *clients, *origins)))
        _insert(db, "texts", ("text",), ((word,) for word in words), "on conflict do nothing")
        texts = Texts(new_per_day=0)  # its own: the collector's is bounded, and would fold many paths into (other)
        texts.load(db, words)
        batch = Batch(db, texts, Salts(), [])
        self.texts.update((text, texts.id_of(text)) for text in fresh)
        self.clients.update(zip(clients, batch._combinations("clients", _CLIENT_COLUMNS, clients)))
        self.origins.update(zip(origins, batch._combinations("origins", _ORIGIN_COLUMNS, origins)))


class Demo:
    """Makes up visits, chunk by chunk in the order in which they begin, and writes them."""

    LENGTHS = range(1, 41)  # pageviews of a visit: a little over half have one, the others five on average
    LENGTH_WEIGHTS = list(itertools.accumulate([0.53, *(0.47 * 0.248 * 0.752 ** more for more in range(39))]))

    def __init__(self, store: Store, site: Site, now: int, random: Random, paths: int):
        self._store, self._site, self._now, self._random = store, site, now, random
        self._names = DemoNames()
        self._paths = demo_paths(paths)
        self._path_weights = list(itertools.accumulate(1 / rank for rank in range(1, paths + 1)))
        self._clients = demo_clients(random, site)
        self._arrivals, self._arrival_shares = demo_arrivals(site, _DEMO_ARRIVALS.strip() + "\n" + _demo_links())
        self._surges, _ = demo_arrivals(site, _DEMO_SURGES)
        self._readings = demo_readings(random)
        self._actions, self._action_shares = _demo_actions(site)
        self._visitors: list[DemoVisitor] = []
        self._epoch_ends = 0
        self._next_ids: dict[int, int] = {}  # second → the next free id
        self._rows: dict[str, list[tuple]] = {table: [] for table in DEMO_TABLES}  # of which neighbours in time may still come
        self._ready: dict[str, list[tuple]] = {table: [] for table in DEMO_TABLES}

    def fill(self, steps: Iterable[DemoStep]) -> int:
        """Write the visits of all steps; return how many pageviews they have."""
        written = 0
        for chunk in _demo_chunks(steps):
            wanted = sum(step.pageviews for step in chunk)
            while wanted:
                plans = self._draw(chunk, wanted)
                self._commit(plans)
                made = sum(map(self._record, plans))
                wanted, written = wanted - made, written + made
                if wanted:  # the present cut visits short, and the next round goes back in time
                    self._epoch_ends = 0
            self._finish(chunk[-1].end)
        self._finish(self._now)
        self._commit([])
        return written

    def _draw(self, chunk: list[DemoStep], pageviews: int) -> list[DemoPlan]:
        """Return plans of visits that begin in the chunk and have so many pageviews together, in their order of time."""
        random, lengths = self._random, self._draw_lengths(pageviews)
        count = len(lengths)
        steps = random.choices(chunk, [step.pageviews for step in chunk], k=count)
        moments = sorted(((int(step.start + random.random() * (step.end - step.start)), step) for step in steps))
        pages = iter(random.choices(self._paths, cum_weights=self._path_weights, k=pageviews))
        readings = iter(random.choices(self._readings, k=pageviews))
        drawn = zip(moments, lengths, random.choices(self._clients, k=count), random.choices(self._arrivals, self._arrival_shares, k=count),
                    random.choices(self._actions, self._action_shares, k=count))
        return [self._plan(moment, list(itertools.islice(pages, length)), list(itertools.islice(readings, length)), *more)
                for moment, length, *more in drawn]

    def _draw_lengths(self, pageviews: int) -> list[int]:
        """Return pageviews of visits that make exactly `pageviews`."""
        lengths: list[int] = []
        while pageviews > 0:
            drawn = self._random.choices(self.LENGTHS, cum_weights=self.LENGTH_WEIGHTS, k=pageviews // 3 + 1)
            lengths += drawn
            pageviews -= sum(drawn)
        while pageviews < 0:
            excess = min(-pageviews, lengths[-1])
            pageviews += excess
            lengths[-1:] = [lengths[-1] - excess] if excess < lengths[-1] else []
        return lengths

    def _plan(self, moment: tuple[int, DemoStep], pages: list[str], readings: list[DemoReading], client: tuple[str, ...],
              arrival: DemoArrival, action: DemoAction | None) -> DemoPlan:
        """Put together what was drawn for one visit."""
        start, step = moment
        if step.surge and self._random.random() < step.surge:
            arrival = self._surges[step.surging]
        pages[0] = arrival.entry or pages[0]
        who = self._visitor(start, client)
        who.left = start + sum(reading.seconds for reading in readings)
        event = self._event(action, pages, who.client) if action else None
        return DemoPlan(start, who.visitor, who.client, arrival.origin if any(who.client) else arrival.private, pages, readings, event)

    def _visitor(self, start: int, client: tuple[str, ...]) -> DemoVisitor:
        """Return somebody new, or sometimes one who was here earlier in the epoch."""
        random = self._random.random
        if start >= self._epoch_ends:
            _, self._epoch_ends = epoch_at(start, self._site.rotation_hours, self._site.zone)
            self._visitors.clear()
        if random() < DEMO_RETURNING and self._visitors:
            who = self._visitors[int(random() * len(self._visitors))]
            if start - who.left > VISIT_TIMEOUT:
                return who
        who = DemoVisitor(self._random.getrandbits(64) - 2 ** 63, client, start)
        if len(self._visitors) < DEMO_VISITORS:
            self._visitors.append(who)
        else:
            self._visitors[int(random() * DEMO_VISITORS)] = who
        return who

    def _event(self, action: DemoAction, pages: list[str], client: tuple[str, ...]) -> DemoEvent | None:
        """Return the event of a visit, whose last pages lead up to it; None where the visit is too short for them."""
        random, tail = self._random, action.pages
        if len(pages) <= len(tail):
            return None
        if tail:
            pages[-len(tail):] = tail
        value = random.choice(action.values)
        amount = _DEMO_PRICES[value] * random.choice((1, 1, 1, 10)) if action.name == "purchase" else 0
        revenue = (amount, "EUR" if client[0] in _DEMO_EURO else "USD") if amount else None
        return DemoEvent(action, len(pages) - 1 if tail else random.randrange(len(pages)), value, revenue)

    def _record(self, plan: DemoPlan) -> int:
        """Make the rows of a visit as far as it has come by now; return how many pageviews it has."""
        site_id, texts, hits, second = self._site.id, self._names.texts, self._rows["hits"], plan.start
        hostname, entry = texts[self._site.domain], texts[plan.pages[0]]
        visit = Visit(site_id, 0, plan.visitor, self._names.clients[plan.client], self._names.origins[plan.origin], entry, entry)
        for place, (text, (seconds, engaged, scroll)) in enumerate(zip(plan.pages, plan.readings)):
            page, hit_id, left = texts[text], self._next_id(second), second + seconds
            if left >= self._now:
                engaged, scroll = 0, None  # it is being looked at: nothing was told yet
            visit.id = visit.id or hit_id
            visit.add(hit_id, PAGEVIEW, page, True)
            visit.touch(left if engaged else second)
            hits.append((site_id, hit_id, hit_id - visit.id, PAGEVIEW, page, hostname, engaged, scroll))
            if plan.event and plan.event.place == place:
                self._record_event(visit, plan.event, page, min(self._now - 1, second + int(self._random.random() * seconds)))
            second = left
            if second >= self._now:
                break
        visit.live = int(visit.goes_on(self._now))
        self._rows["visits"].append(_visit_row(visit))
        return visit.pageviews

    def _record_event(self, visit: Visit, event: DemoEvent, page: int, second: int) -> None:
        texts, hit_id = self._names.texts, self._next_id(second)
        name = texts[event.action.name]
        visit.add(hit_id, name, page, event.action.interactive)
        visit.touch(second)
        self._rows["hits"].append((visit.site_id, hit_id, hit_id - visit.id, name, page, texts[self._site.domain], 0, None))
        self._rows["props"].append((visit.site_id, hit_id, texts[event.action.key], texts[event.value]))
        if event.revenue:
            self._rows["revenue"].append((visit.site_id, hit_id, *event.revenue))

    def _next_id(self, second: int) -> int:
        hit_id = self._next_ids.get(second, second << 16)
        self._next_ids[second] = hit_id + 1
        return hit_id

    def _finish(self, before: int) -> None:
        """Make ready to be written what happened before a second: no visit that begins later can add to it."""
        for table in DEMO_TABLES:
            self._ready[table] += _take_before(self._rows[table], before << 16)
        self._next_ids = {row[1] >> 16: row[1] + 1 for row in self._rows["hits"]}

    def _commit(self, plans: list[DemoPlan]) -> None:
        """Write the rows that are ready and learn the ids of what new plans name, in one transaction."""
        events = [plan.event for plan in plans if plan.event]
        words = (text for event in events for text in (event.action.name, event.action.key, event.value))

        def commit(db: sqlite3.Connection) -> None:
            _insert_demo(db, **self._ready)
            self._names.learn(db, plans, (self._site.domain, *words))
            if hits := self._ready["hits"]:
                unseal(db, self._site.id, local_date(hits[0][1] >> 16, self._site.zone).toordinal())
        self._store.transact(commit)
        self._ready = {table: [] for table in DEMO_TABLES}


def _insert_demo(db: sqlite3.Connection, visits: list[tuple], hits: list[tuple], props: list[tuple], revenue: list[tuple]) -> None:
    db.executemany("""
        insert into visits (site_id, id, visitor, client_id, origin_id, entry_page, exit_page, exit_after, pageviews, interactive, duration,
            live) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""", visits)
    db.executemany("""
        insert into hits (site_id, id, since, name, page, hostname, engaged, scroll) values (?, ?, ?, ?, ?, ?, ?, ?)""", hits)
    db.executemany("insert into props (site_id, hit_id, key, value) values (?, ?, ?, ?)", props)
    db.executemany("insert into revenue (site_id, hit_id, amount, currency) values (?, ?, ?, ?)", revenue)


def _take_before(rows: list[tuple], hit_id: int) -> list[tuple]:
    """Sort rows by their second column, and take out and return those below `hit_id`."""
    rows.sort(key=operator.itemgetter(1))
    ready = rows[:bisect.bisect_left(rows, hit_id, key=operator.itemgetter(1))]
    del rows[:len(ready)]
    return ready


def _demo_actions(site: Site) -> tuple[list[DemoAction | None], list[float]]:
    """Return ([action or None], [its share])."""
    rows = _demo_table(_DEMO_ACTIONS)
    shares = [float(row[0]) for row in rows]
    actions = [DemoAction(name, interactive == "yes", tuple(pages.split()), key, tuple(values.format(domain=site.domain).split()))
               for _, name, interactive, pages, key, values in rows]
    return [None, *actions], [100 - sum(shares), *shares]


def fill_demo(app: App, domain: str, pageviews: int, days: int, seed: int, paths: int = 300, by: Principal = OPERATOR) -> int:
    """Fill a site with made-up visits over the `days` days before today and today until now; return how many pageviews it wrote.

    The site is added where there is none. The same arguments at the same time give the same rows. Writes in short transactions.
    Raises InvalidInput where a number is out of its range or the site has data.
    """
    for name, value in (("pageviews", pageviews), ("days", days), ("paths", paths)):
        least, most = DEMO_LIMITS[name]
        if not least <= value <= most:
            raise InvalidInput.of(name, f"must be from {least} to {most}, not {value}")
    now, random = int(app.clock()), Random(seed)
    settings = app.settings
    site = app.store.transact(lambda db: _demo_site(db, settings, now, by, domain))
    if site.rotation_hours > 24:
        app.store.transact(lambda db: _demo_epochs(db, site, now - (days + 1) * 86_400, now))
    steps = demo_steps(random, site, now, days, pageviews)
    app.store.transact(lambda db: _demo_drops(db, random, site, steps))
    return Demo(app.store, site, now, random, paths).fill(steps)


def _demo_site(db: sqlite3.Connection, settings: Settings, now: int, by: Principal, domain: str) -> Site:
    site = find_site(db, settings, domain)
    if site and db.execute("select 1 from hits where site_id = ?", (site.id,)).fetchone():
        raise InvalidInput.of("site", f"{site.domain} has data, which made-up visits must not be mixed with: remove that site first, or let the command fill another")
    if not site:
        add_site(db, now, domain=domain)
        note(db, now, by, "site added", host_of(domain), "with made-up visits")
    return get_site(db, settings, domain)


def _demo_epochs(db: sqlite3.Connection, site: Site, second: int, now: int) -> None:
    """Note the epochs that made-up visitors live in."""
    while second < now:
        _, ends_at = epoch_at(second, site.rotation_hours, site.zone)
        note_long_epoch(db, site.id, second, ends_at)
        second = ends_at


def _demo_drops(db: sqlite3.Connection, random: Random, site: Site, steps: Sequence[DemoStep]) -> None:
    """Count, day by day, hits that would not have counted."""
    shares = {**DEMO_DROPPED, **({"gpc": DEMO_GPC} if site.gpc == "drop" else {})}
    pageviews: Counter[str] = Counter()
    for step in steps:
        pageviews[local_date(step.start, site.zone).isoformat()] += step.pageviews
    rows = [(site.id, day, reason, count) for day, total in pageviews.items() for reason, share in shares.items()
            if (count := int(total * share * random.uniform(0.6, 1.4) + random.random()))]
    _insert(db, "dropped", ("site_id", "day", "reason", "count"), rows,
            "on conflict (site_id, day, reason) do update set count = count + excluded.count")


# ---- background jobs -------------------------------------------------------------------------------------------------
# Plain functions of the app, in one table: name, what it does, seconds between two runs. Tests and `purge` call them by hand.
# No report depends on when they run: what is over is over by the clock, not by the job.

PURGE_ROWS = 500  # rows deleted in one transaction: well under 50 ms of the write lock


def rotate_salts(app: App) -> None:
    """Destroy the salts whose grace is over: delete the rows, then empty the write-ahead log, which still has their pages."""
    settings = app.settings

    def rotate(db: sqlite3.Connection) -> int:
        second = int(app.clock())  # not before it is this job's turn: an epoch may begin while it waits
        for site in list_sites(db, settings):
            end_overlong_epochs(db, site, second)
        return destroy_salts(db, second)
    if app.store.transact(rotate):
        app.log_holds_salts = True
    if app.log_holds_salts:
        app.log_holds_salts = not app.store.truncate_log()


def settle_visits(app: App) -> None:
    """Mark the visits that are over, forget what linked them across the end of an epoch, and delete sessions that are over."""
    app.collector.record_limited()
    before = int(app.clock()) - VISIT_TIMEOUT

    def settle(db: sqlite3.Connection) -> None:
        db.execute("update visits set live = 0 where live = 1 and (id >> 16) + duration < ?", (before,))
        delete_over(db, int(app.clock()))
        carried = app.collector.salts.carried
        if carried:
            alive = set(db.execute("select site_id, visitor from visits where live = 1"))
            for key in [key for key, visitor in carried.items() if (key[0], visitor) not in alive]:
                del carried[key]
    app.store.transact(settle)


def purge(app: App) -> int:
    """Delete what retention no longer covers and what removed sites left; return how many hits that were.

    Works in short transactions, so that collection goes on beside it, and gives the space back to the file system.
    """
    now = app.clock()
    with app.store.snapshot() as db:
        sites = list_sites(db, app.settings)
        orphans = _site_ids_without_site(db)
    deleted = sum(_purge_site(app.store, site_id, 2 ** 62, date.max) for site_id in orphans)
    for site in sites:
        if site.retention_days:
            first_kept = local_date(now, site.zone) - timedelta(days=site.retention_days)
            deleted += _purge_site(app.store, site.id, midnight(first_kept, site.zone) << 16, first_kept)
    if deleted or app.texts_may_be_unused:
        app.texts_may_be_unused = True  # until it is done: a purge that was cut short goes on in the next
        _purge_texts(app.store, app.clock)
        app.texts_may_be_unused = False
        while app.store.vacuum():
            pass
        app.log_holds_salts = not app.store.truncate_log()
    return deleted


def seal(app: App, seconds: float = math.inf) -> int:
    """Seal the days that are over, of every site, and note what reached its goals, for so many seconds; return how many days were sealed."""
    deadline = time.monotonic() + seconds
    with app.store.snapshot() as db:
        sites = list_sites(db, app.settings)
    sealed = sum(seal_days(app.store, site, app.clock(), deadline) for site in sites)
    for site in sites:
        note_goals(app.store, site, deadline)
    return sealed


def rebuild_rollups(app: App) -> int:
    """Forget all that is sealed, and seal it anew; return how many days that were."""
    with app.store.snapshot() as db:
        sites = list_sites(db, app.settings)
    for site in sites:
        _delete_sealed_days(app.store, site.id, date.max)
    return seal(app)


def _site_ids_without_site(db: sqlite3.Connection) -> list[int]:
    """Return ids under which there are still rows though the site was removed."""
    tables = " union ".join(f"select distinct site_id from {table}" for table in ("hits", "visits", "salts", "dropped", "days", "long_epochs"))
    return [site_id for site_id, in db.execute(f"select site_id from ({tables}) where site_id > 0 and site_id not in (select id from sites)")]


def _purge_site(store: Store, site_id: int, before_id: int, before_day: date) -> int:
    """Delete a site's rows from before a moment; return how many hits that were. A visit stays as long as any of its hits may."""
    _delete_sealed_days(store, site_id, before_day)  # the first day that stays too, whose seam is to one that goes
    for table, key in (("props", "hit_id"), ("revenue", "hit_id")):
        _delete_in_steps(store, table, key, f"site_id = ? and {key} < ?", (site_id, before_id))
    hits = _delete_in_steps(store, "hits", "id", "site_id = ? and id < ?", (site_id, before_id))
    _delete_in_steps(store, "visits", "id", "site_id = ? and id < ? and (id >> 16) + duration < ?", (site_id, before_id, before_id >> 16))
    store.transact(lambda db: db.execute("delete from dropped where site_id = ? and day < ?", (site_id, before_day.isoformat())))
    store.transact(lambda db: db.execute("delete from long_epochs where site_id = ? and ends_at <= ?", (site_id, before_id >> 16)))
    return hits


def _delete_sealed_days(store: Store, site_id: int, last_day: date) -> None:
    """Delete what is sealed of the days up to one."""
    last = last_day.toordinal()
    with store.snapshot() as db:
        days = db.execute("select day from days where site_id = :site and day <= :last union select day from columns where site_id = :site and day <= :last",
                          {"site": site_id, "last": last}).fetchall()
    store.transact(lambda db: db.execute("delete from days where site_id = ? and day <= ?", (site_id, last)))
    for day, in days:
        store.transact(lambda db: delete_sealed(db, site_id, day))


def _delete_in_steps(store: Store, table: str, key: str, condition: str, values: tuple) -> int:
    """Delete rows of one site, some at a time; return how many they were."""
    deleted = 0
    while step := store.transact(lambda db: db.execute(
            f"delete from {table} where site_id = ? and {key} in (select {key} from {table} where {condition} limit {PURGE_ROWS})",
            (values[0], *values)).rowcount):
        deleted += step
    return deleted


def _purge_texts(store: Store, clock: Clock) -> None:
    """Delete the texts, clients and origins that nothing names any more: a path can be personal too.

    They are sought on a reader, which may take long, and deleted by the writer, which first looks at what was written since.
    """
    for table, column in (("clients", "client_id"), ("origins", "origin_id")):
        with store.snapshot() as db:
            unused = [each for each, in db.execute(f"select id from {table} where id not in (select {column} from visits)")]
        _delete_unused(store, table, unused, lambda db, seconds: _recent(db, "visits", "id", (column,), int(clock()) - seconds))
    used = " union all ".join(f"select {column} from {table}" for table, columns in TEXT_COLUMNS.items() for column in columns)
    with store.snapshot() as db:
        unused = [each for each, in db.execute(f"select id from texts where id > {OTHER} and id not in ({used})")]
    _delete_unused(store, "texts", unused, lambda db, seconds: _recently_named(db, int(clock()) - seconds))


def _delete_unused(store: Store, table: str, unused: Sequence[int], spared: Callable[[sqlite3.Connection, int], set[int]]) -> None:
    """Delete rows that nothing names, but for those that `spared(db, seconds)` finds named in the last seconds.

    Hits are found by their time, and a clock may be set back, hence the hour; it is looked through on a reader, so that the
    writer has minutes left.
    """
    with store.snapshot() as db:
        unused = sorted(set(unused) - spared(db, 3600))
    for start in range(0, len(unused), PURGE_ROWS):
        def step(db: sqlite3.Connection) -> None:
            ids = sorted(set(unused[start:start + PURGE_ROWS]) - spared(db, 120))
            db.execute(f"delete from {table} where id in (select value from json_each(?))", (json.dumps(ids),))
            store.forget()
        store.transact(step)


def _recent(db: sqlite3.Connection, table: str, key: str, columns: Sequence[str], since: int) -> set[int]:
    """Return the values of columns in the rows written since a second, of every site."""
    return {value for site_id, in db.execute("select id from sites").fetchall()
            for row in db.execute(f"select {', '.join(columns)} from {table} where site_id = ? and {key} >= ?", (site_id, since << 16))
            for value in row}


def _recently_named(db: sqlite3.Connection, since: int) -> set[int]:
    """Return the ids of texts that are named by new hits, or by any client or origin."""
    named = set().union(*(_recent(db, table, key, TEXT_COLUMNS[table], since)
                          for table, key in (("hits", "id"), ("visits", "id"), ("props", "hit_id"))))
    for table in ("clients", "origins"):
        named.update(*db.execute(f"select {', '.join(TEXT_COLUMNS[table])} from {table}"))
    return named


SEAL_SECONDS = 5  # at once, as years of days may have come together: other jobs, and SIGTERM, want their turn

JOBS: tuple[tuple[str, Callable[[App], Any], int], ...] = (
    ("rotate salts", rotate_salts, 60),
    ("settle visits", settle_visits, 60),
    ("purge", purge, 6 * 3600),
    ("seal days", lambda app: seal(app, SEAL_SECONDS), 10),
)


class Scheduler:
    """Runs the jobs when they are due, on one thread that waits in between."""

    def __init__(self, app: App):
        self._app = app
        self._due = dict.fromkeys((name for name, _, _ in JOBS), -math.inf)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock, self._running = threading.Lock(), threading.Lock()

    def start(self) -> None:
        """Begin, unless it has begun."""
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._stop.is_set():
                    self._thread = threading.Thread(target=self._run, name="mininumbers-jobs", daemon=True)
                    self._thread.start()

    def run_due(self) -> None:
        """Run the jobs that are due. One that fails is logged and tried again when it is due next."""
        with self._running:
            if self._stop.is_set():
                return
            now = self._app.clock()
            for name, job, seconds in JOBS:
                if self._due[name] <= now or self._due[name] > now + seconds:  # the latter: the clock was set back
                    self._due[name] = now + seconds
                    self._attempt(name, job)

    def _attempt(self, name: str, job: Callable[[App], Any]) -> None:
        try:
            self._app.store.begin()
            job(self._app)
        except Exception as error:
            log.error("job %s failed: %s", name, describe(error))

    def _run(self) -> None:
        while not self._stop.is_set():
            self.run_due()
            self._stop.wait(10)

    def stop(self) -> None:
        """Stop, after the job that is running."""
        self._stop.set()
        with self._running:  # from here on no job runs, even if SIGTERM came while the thread was being started
            pass
        if self._thread and self._thread.is_alive():
            self._thread.join()


def describe(error: BaseException) -> str:
    """Return where an unforeseen error came from, and never its message: that could quote what a visitor sent."""
    frames, trace = [], error.__traceback__
    while trace:
        frames.append(f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} at {' > '.join(frames[-6:])}"


# ---- HTTP edge -------------------------------------------------------------------------------------------------------
# The only section that knows of requests. A handler parses, makes one call, returns; what it returns becomes JSON.

COOKIE, MARK = "mininumbers", "-device"  # the session's cookie, and what is added for that of a browser that has signed in
MARK_SECONDS = 400 * 86_400  # as long as browsers let cookies live
PIXEL = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")  # one transparent dot
COLLECTION_HEADERS = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "X-MiniNumbers-Dropped, X-Plausible-Dropped",
                      "Cross-Origin-Resource-Policy": "cross-origin", "Cache-Control": "no-store"}
# For every answer that does not bring stricter or looser ones of its own; what is no page can load, frame and run nothing.
SAFE_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
                "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"}
PREFLIGHT_HEADERS = {"Access-Control-Allow-Methods": "POST, OPTIONS", "Access-Control-Allow-Headers": "Content-Type",
                     "Access-Control-Max-Age": "86400"}


@dataclass(frozen=True)
class StaticFile:
    """A file that is served as it is, held in memory also compressed."""

    body: bytes
    gzipped: bytes
    etag: str
    headers: Mapping[str, str]

    @classmethod
    def of(cls, body: bytes, headers: Mapping[str, str]) -> StaticFile:
        """Prepare a file."""
        return cls(body, gzip.compress(body, 9, mtime=0), etag_of(body), headers)

    def respond(self) -> bottle.HTTPResponse:
        """Return it in the form that the browser takes, or the word that it has it already."""
        headers = {**self.headers, "ETag": self.etag, "Vary": "Accept-Encoding"}
        if is_fresh(self.etag):
            return bottle.HTTPResponse(status=304, **headers)
        if re.search(r"\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))", header("Accept-Encoding")):
            return bottle.HTTPResponse(self.gzipped, **headers, **{"Content-Encoding": "gzip"})
        return bottle.HTTPResponse(self.body, **headers)


def header(name: str) -> str:
    """Return a request's header, "" where there is none. Of one that is not ASCII every byte is a character: it may be anything."""
    return bottle.request.environ.get("HTTP_" + name.upper().replace("-", "_"), "")


def etag_of(body: bytes) -> str:
    """Return a validator of a body; weak, since the same content may be sent compressed."""
    return f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'


def is_fresh(etag: str) -> bool:
    """Return whether the browser already has what `etag` stands for."""
    return etag in re.split(r"\s*,\s*", header("If-None-Match"))


_REMARKS = re.compile(rb"^[ \t]*(?://[^\n]*|/\*(?:(?!\*/).)*\*/[ \t]*|<!--(?:(?!-->).)*-->[ \t]*)\n"
                      rb"|^\n|^[ \t]+|[ \t]{2,}(?://[^\n]*|/\*(?:(?!\*/)[^\n])*\*/)$|/\*\* @(?:(?!\*/)[^\n])*\*/ ?", re.DOTALL | re.MULTILINE)
_STYLE = re.compile(rb"<style>.*?</style>", re.DOTALL)


def dashboard_file() -> StaticFile:
    """Return dashboard.html with a policy that lets run exactly what is sent of it: all but comments, indentation and empty lines.

    These are for who reads the file, and a sixth of its weight. A comment stands on lines of its own, two spaces behind code, or tells a
    type. Rules of style go without the space around their punctuation, too.
    """
    body = _REMARKS.sub(b"", asset("dashboard.html").read_bytes())
    body = _STYLE.sub(lambda style: re.sub(rb"\s*([{};,>])\s*|(?<=:)\s+", rb"\1", style[0]), body)

    def hashes(tag: bytes) -> str:
        found = re.findall(rb"<" + tag + rb"\b[^>]*>(.*?)</" + tag + rb">", body, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each).digest()).decode()}'" for each in found)
    policy = (f"default-src 'none'; script-src {hashes(b'script')}; style-src {hashes(b'style')}; img-src 'self' data:; connect-src 'self'; "
              "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'")
    return StaticFile.of(body, {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": policy, "Cache-Control": "no-cache",
                                "Cross-Origin-Opener-Policy": "same-origin", "Permissions-Policy": "camera=(), geolocation=(), microphone=()"})


def tracker_file() -> StaticFile:
    """Return the tracker; it may be cached for a day, and loaded by every site."""
    return StaticFile.of(asset("tracker.min.js").read_bytes(), {
        "Content-Type": "text/javascript; charset=utf-8", "Cache-Control": "public, max-age=86400",
        "Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"})


def cookie_name(kind: str = "") -> str:
    """Return the name of a cookie of ours; under https one that no neighbouring host can plant, as browsers promise for these prefixes."""
    environ = bottle.request.environ
    if environ["wsgi.url_scheme"] != "https":
        return COOKIE + kind
    return ("__Secure-" if environ.get("SCRIPT_NAME") else "__Host-") + COOKIE + kind


def read_cookie(kind: str = "") -> str:
    """Return the value of a cookie of ours, "" where there is none. Other cookies may be as malformed as they like."""
    wanted = cookie_name(kind)
    pairs = (pair.strip().partition("=") for pair in header("Cookie").split(";"))
    values = {value.strip('"') for name, _, value in pairs if name == wanted}
    return values.pop() if len(values) == 1 else ""  # of two, one was planted, and nothing tells which


def read_body() -> bytes:
    """Return the request's body. Raises TooLarge."""
    try:
        length = int(bottle.request.environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        raise InvalidInput("Content-Length is not a number.") from None
    if length < 0:
        raise InvalidInput("Content-Length is below zero.")
    if length > BODY_LIMIT:
        raise TooLarge(f"The body may have {BODY_LIMIT} bytes.")
    return bottle.request.environ["wsgi.input"].read(length)


def read_arguments() -> dict[str, str]:
    """Return the arguments in the request's address."""
    return dict(parse_qsl(bottle.request.query_string, errors="replace"))


def read_form() -> tuple[Any, Form]:
    """Return (the JSON object of the body, a Form over it)."""
    body = load_json(read_body())
    return body, Form(body)


def read_sender() -> Sender:
    """Return who sent this request."""
    return Sender(address_of(bottle.request.environ.get("REMOTE_ADDR") or ""), header("User-Agent")[:USER_AGENT_LIMIT],
                  language_of(header("Accept-Language")), "1" in (header("Sec-GPC"), header("DNT")))


def read_caller(app: App) -> Caller:
    """Return where somebody signs in from."""
    shown = app.collector.agents.read(header("User-Agent")[:USER_AGENT_LIMIT])
    parts = [shown.browser, shown.os] if shown else []
    return Caller(address_of(bottle.request.environ.get("REMOTE_ADDR") or ""), " on ".join(filter(None, parts)) or "a program", read_cookie(MARK))


def respond_json(value: Any, status: int = 200, **headers: str) -> bottle.HTTPResponse:
    """Return a JSON answer."""
    return bottle.HTTPResponse(to_json(value), status, **{"Content-Type": "application/json", "Cache-Control": "no-store", **headers})


def respond_error(error: MiniNumbersError) -> bottle.HTTPResponse:
    """Return the answer that tells of an error."""
    retry = {"Retry-After": str(getattr(error, "retry_after", 1))} if error.status in (429, 503) else {}
    return respond_json({"error": str(error), "code": error.code, "details": error.details}, error.status, **retry)


# Guards: who may come in. Each returns the Principal, or raises.

def anyone(app: App) -> None:
    """Let everybody in."""


def same_origin(app: App) -> None:
    """Let in what a page of this server sends: a form on another site cannot sign somebody in or out.

    What changes something must say so itself, in a header that no page can forge; what only reads may come without any.
    """
    site, origin, only_reads = header("Sec-Fetch-Site"), header("Origin"), bottle.request.method in ("GET", "HEAD")
    if site:  # a browser's own word, which a proxy does not change
        allowed = site == "same-origin" or site == "none" and only_reads
    else:
        allowed = origin.partition("://")[2] == header("Host") if origin else only_reads
    if not allowed:
        raise Forbidden("This request came from another site." if site or origin else "This request must say where it comes from: send "
                        "Origin with the address of this server, as browsers do, or use an API token.")
    content_type = bottle.request.environ.get("CONTENT_TYPE", "")
    if not only_reads and content_type.partition(";")[0].strip().lower() != "application/json":
        raise InvalidInput("The Content-Type must be application/json.")


def bearer(app: App) -> Principal | None:
    """Return what the token of a request stands for; None where it has none. Raises Unauthorized, TooMany."""
    scheme, _, secret = header("Authorization").partition(" ")
    if scheme.lower() != "bearer":
        return None
    principal = app.accounts.by_token(secret.strip())
    if principal is None:
        raise Unauthorized("This token is not valid: it is misspelt, was revoked, or is over.")
    app.token_limits.check((principal.id,), app.settings.requests_per_token, "requests with one token")
    return principal


def signed_in(app: App) -> Principal:
    """Let in a person who is signed in."""
    if bearer(app):
        raise Forbidden("This is for a person who is signed in, not for a token.")
    same_origin(app)
    principal = app.accounts.by_session(read_cookie())
    if principal is None:
        raise Unauthorized("Sign in, or send a valid token as Authorization: Bearer TOKEN.")
    return principal


def viewer(app: App) -> Principal:
    """Let in who may see numbers: a signed-in person, or a program with a token. Of which sites, the handler asks."""
    return bearer(app) or signed_in(app)


def editor(app: App) -> Principal:
    """Let in who may change a site's settings, goals and the like: an editor, or a token that writes. Of which sites, the handler asks."""
    principal = viewer(app)
    if principal.kind == "token" and not principal.may("editor"):
        raise Forbidden("This token may only read.")
    principal.require("editor")
    return principal


def site_admin(app: App) -> Principal:
    """Let in who may add and remove sites: an admin, or a token of one that writes and is for every site."""
    principal = editor(app)
    if principal.site_ids is not None:
        raise Forbidden("Only who may see every site may do this.")
    principal.require("admin")
    return principal


def admin(app: App) -> Principal:
    """Let in a person who manages people and sites."""
    principal = signed_in(app)
    principal.require("admin")
    return principal


def owner(app: App) -> Principal:
    """Let in a person who owns the server."""
    principal = signed_in(app)
    principal.require("owner")
    return principal


# Handlers

def get_dashboard(app: App, _: None) -> bottle.HTTPResponse:
    """The page. Its URLs are relative, so the address of an application mounted at /stats must end in a slash."""
    prefix = bottle.request.environ.get("SCRIPT_NAME", "")
    if prefix and not bottle.request.environ.get("PATH_INFO"):
        return bottle.HTTPResponse(status=308, Location=quote(prefix, encoding="latin-1") + "/")
    return app.dashboard.respond()


def get_tracker(app: App, _: None) -> bottle.HTTPResponse:
    """The script a site loads."""
    return app.tracker.respond()


def get_health(app: App, _: None) -> bottle.HTTPResponse:
    """Whether the server can do its work, for load balancers: 503 while the database cannot be written."""
    try:
        app.store.probe()
        writable = True
    except Busy:
        writable = False
    return respond_json({"status": "ok" if writable else "error", "version": __version__, "schema_version": app.store.schema_version,
                         "database": "writable" if writable else "not writable"}, 200 if writable else 503)


def post_event(app: App, _: None) -> bottle.HTTPResponse:
    """Take an event in; the answer comes once it is on the disk."""
    reason = app.collector.collect(read_event(load_json(read_body())), read_sender())
    return bottle.HTTPResponse(b"ok", 202, **{"Content-Type": "text/plain"}, **_dropped_headers(reason))


def _dropped_headers(reason: str) -> dict[str, str]:
    return {"X-MiniNumbers-Dropped": reason, "X-Plausible-Dropped": "1"} if reason else {}


def preflight_event(app: App, _: None) -> bottle.HTTPResponse:
    """Tell a browser that pages of every site may send events as JSON."""
    return bottle.HTTPResponse(status=204, **PREFLIGHT_HEADERS)


def get_pixel(app: App, _: None) -> bottle.HTTPResponse:
    """Count a page without JavaScript: an image whose address names the site (d), the page (u) and perhaps the referrer (r)."""
    given = read_arguments()
    body = {"n": "pageview", **{name: given[name] for name in ("d", "u", "r") if name in given}}
    reason = app.collector.collect(read_event(body), read_sender())
    return bottle.HTTPResponse(PIXEL, 200, **{"Content-Type": "image/gif"}, **_dropped_headers(reason))


def get_session(app: App, _: None) -> dict:
    """Who is signed in, and whether anybody can be yet."""
    db = app.store.reader()
    principal, is_new = app.accounts.by_session(read_cookie()), not has_users(db)
    user = _say_user(db, principal) if principal else None
    defaults = {"defaults": {name: getattr(app.settings, name) for name in SITE_OVERRIDES}} if user or is_new else {}
    return {"user": user, "setup": is_new, "version": __version__, **defaults}


def _say_user(db: sqlite3.Connection, principal: Principal) -> dict:
    return {"username": principal.name, "role": principal.role, "every_site": principal.site_ids is None,
            "two_factor": get_user(db, principal.id).totp_secret is not None}


def post_setup_check(app: App, _: None) -> dict:
    """Whether a link for the first run is good, before anybody fills in a form."""
    _, form = read_form()
    code = form.text("code", most=200, required=True)
    form.check()
    app.accounts.check_setup_code(code)
    return {}


def post_setup(app: App, _: None) -> bottle.HTTPResponse:
    """Create the first account and site, for who holds the link that was printed in the terminal."""
    body, form = read_form()
    code = form.text("code", most=200, required=True)
    username, password = _read_new_user(form)
    domain, zone = form.text("domain", most=253, required=True), form.text("timezone", most=64) or "UTC"
    form.check()
    app.accounts.check_setup_code(code)
    site = {name: body[name] for name in SITE_OVERRIDES if body.get(name) is not None}
    app.accounts.setup(OPERATOR, username, password, domain, zone, only_first=True, **site)
    caller = read_caller(app)
    user = find_user(app.store.reader(), username)
    return _signed_in(app, app.accounts.enter(user, caller), new_mark(user.password_hash))


def _read_new_user(form: Form) -> tuple[str, str]:
    return form.text("username", most=64, required=True), form.text("password", most=1024, required=True)


def post_login(app: App, _: None) -> bottle.HTTPResponse:
    """Sign in. A session that the browser had before ends: nobody can have chosen the one that follows."""
    _, form = read_form()
    (username, password), code = _read_new_user(form), form.text("code", most=64)
    form.check()
    secret, mark = app.accounts.sign_in(username, password, code, read_caller(app))
    return _signed_in(app, secret, mark)


def _signed_in(app: App, secret: str, mark: str) -> bottle.HTTPResponse:
    if old := read_cookie():
        app.accounts.sign_out(old)
    answer = respond_json({"user": _say_user(app.store.reader(), app.accounts.by_session(secret))})
    _set_cookie(answer, secret, SESSION_SECONDS)
    _set_cookie(answer, mark, MARK_SECONDS, MARK)
    return answer


def _set_cookie(answer: bottle.HTTPResponse, value: str, seconds: int, kind: str = "") -> None:
    environ = bottle.request.environ
    answer.set_cookie(cookie_name(kind), value, path=f"{environ.get('SCRIPT_NAME', '')}/", httponly=True, samesite="strict", max_age=seconds,
                      secure=environ["wsgi.url_scheme"] == "https")


def post_logout(app: App, _: None) -> bottle.HTTPResponse:
    """Sign out, here or everywhere."""
    _, form = read_form()
    everywhere = form.flag("everywhere")
    form.check()
    principal = app.accounts.by_session(read_cookie())
    if principal and everywhere:
        app.accounts.sign_out_everywhere(principal)
    elif principal:
        app.accounts.sign_out(read_cookie())
    answer = respond_json({})
    _set_cookie(answer, "", 0)
    return answer


def get_account(app: App, principal: Principal) -> dict:
    """One's own account and sessions."""
    return app.accounts.account(principal)


def _read_proof(*more: str) -> list[str]:
    """Return the password, asked for again, and other fields of a body."""
    _, form = read_form()
    values = [form.text(name, most=1024, required=True) for name in ("password", *more)]
    form.check()
    return values


def post_password(app: App, principal: Principal) -> bottle.HTTPResponse:
    """Change one's password."""
    password, new = _read_proof("new_password")
    mark = app.accounts.change_password(principal, password, new, read_caller(app))
    answer = respond_json({})
    _set_cookie(answer, mark, MARK_SECONDS, MARK)
    return answer


def delete_session(app: App, principal: Principal, id: int) -> dict:
    """End one of one's own sessions."""
    app.accounts.end_session(principal, id)
    return {}


def post_two_factor(app: App, principal: Principal) -> dict:
    """Begin to set up the second factor."""
    password, = _read_proof()
    return app.accounts.begin_two_factor(principal, password, read_caller(app))


def post_two_factor_confirm(app: App, principal: Principal) -> dict:
    """Switch the second factor on, with a code that shows that the app has the secret."""
    password, secret, code = _read_proof("secret", "code")
    return {"recovery_codes": app.accounts.confirm_two_factor(principal, password, secret, code, read_caller(app))}


def post_two_factor_off(app: App, principal: Principal) -> dict:
    """Switch the second factor off."""
    password, code = _read_proof("code")
    app.accounts.end_two_factor(principal, password, code, read_caller(app))
    return {}


def post_recovery_codes(app: App, principal: Principal) -> dict:
    """Replace the recovery codes."""
    password, code = _read_proof("code")
    return {"recovery_codes": app.accounts.renew_recovery_codes(principal, password, code, read_caller(app))}


def get_users(app: App, principal: Principal) -> dict:
    """Everybody who has an account, and the invitations that are open."""
    return app.accounts.people(principal)


def patch_user(app: App, principal: Principal, id: int) -> dict:
    """Change somebody's role and sites."""
    body, form = read_form()
    role = form.text("role", most=20) or None
    form.check()
    app.accounts.set_user(principal, id, role, body.get("sites", ...))
    return {}


def delete_user(app: App, principal: Principal, id: int) -> dict:
    """Remove somebody."""
    app.accounts.remove_user(principal, id)
    return {}


def post_invite(app: App, principal: Principal) -> dict:
    """Make an invitation."""
    body, form = read_form()
    role = form.text("role", most=20, required=True)
    form.check()
    return app.accounts.invite(principal, role, body.get("sites"))


def delete_invite(app: App, principal: Principal, id: int) -> dict:
    """Withdraw an invitation."""
    app.accounts.withdraw_invite(principal, id)
    return {}


def post_invite_check(app: App, _: None) -> dict:
    """What an invitation grants, before anybody fills in a form."""
    _, form = read_form()
    code = form.text("code", most=200, required=True)
    form.check()
    return app.accounts.check_invite(code)


def post_invite_accept(app: App, _: None) -> bottle.HTTPResponse:
    """Create the account that an invitation is for, and sign in."""
    _, form = read_form()
    code, (username, password) = form.text("code", most=200, required=True), _read_new_user(form)
    form.check()
    return _signed_in(app, *app.accounts.accept_invite(code, username, password, read_caller(app)))


def get_tokens(app: App, principal: Principal) -> dict:
    """Tokens: one's own, or everybody's for who manages people."""
    return {"tokens": app.accounts.tokens(principal)}


def post_token(app: App, principal: Principal) -> dict:
    """Make a token, shown this once."""
    body, form = read_form()
    name, read_only = form.text("name", most=100, required=True), form.flag("read_only")
    days = form.integer("expires_in_days", least=1, most=3650)
    form.check()
    token_id, secret = app.accounts.create_token(principal, name, body.get("sites"), read_only is not False, days)
    return {"id": token_id, "token": secret}


def delete_token(app: App, principal: Principal, id: int) -> dict:
    """Revoke a token."""
    app.accounts.revoke_token(principal, id)
    return {}


def get_settings(app: App, _: Principal) -> dict:
    """Every setting of the instance: what it is, where that comes from, and whether it can be changed here."""
    db, settings = app.store.reader(), app.settings
    return {"settings": [{"name": name, "value": getattr(settings, name), "default": setting.default, "help": setting.metadata["help"],
                          "type": "choice" if "choices" in setting.metadata else "int" if isinstance(setting.default, int) else "text",
                          **{limit: setting.metadata[limit] for limit in ("choices", "least", "most") if limit in setting.metadata},
                          "source": (source := app.current.source_of(db, name)), "changeable": name in CHANGEABLE and source != "given"}
                         for name, setting in SETTINGS.items()]}


def patch_settings(app: App, principal: Principal) -> dict:
    """Change settings of the instance."""
    body, _ = read_form()
    app.change_settings(body, principal)
    return get_settings(app, principal)


def get_audit(app: App, _: Principal) -> dict:
    """Who changed what, the newest first."""
    given = read_arguments().get("before", "")
    if not re.fullmatch(r"\d{0,18}", given, re.ASCII):
        raise InvalidInput.of("before", "must be the id of an entry")
    entries, more = read_audit(app.store.reader(), int(given) if given else None)
    return {"entries": entries, "more": more}


def get_sites(app: App, principal: Principal) -> dict:
    """The sites that may be looked at, as they are in effect, and what each has of its own."""
    db = app.store.reader()
    own = {site_id: dict(zip(SITE_OVERRIDES, values)) for site_id, *values in db.execute(
        "select id, mode, rotation_hours, retention_days, gpc from sites")}
    sites = [site for site in list_sites(db, app.settings) if principal.may_read(site)]
    return {"sites": [{"domain": site.domain, "timezone": site.timezone, "hostnames": site.hostnames,
                       **{name: getattr(site, name) for name in SITE_OVERRIDES}, "own": own[site.id]} for site in sites],
            "may_edit": principal.may("editor"), "may_add": principal.may("admin") and principal.site_ids is None}


def _read_site_values(names: Sequence[str]) -> dict:
    """Return those fields of a body that a site has; a null override is as good as "default". Raises InvalidInput."""
    body, form = read_form()
    for name in body:
        if name not in names:
            form.fail(ascii(name)[1:-1], f"is no setting of a site; there are {', '.join(names)}")
    hostnames = body.get("hostnames")
    if isinstance(hostnames, list) and all(isinstance(each, str) for each in hostnames):
        body["hostnames"] = ",".join(hostnames)
    for name in set(names) & {"domain", "timezone", "hostnames"} & set(body):
        if not isinstance(body[name], str) or len(body[name]) > 4_000:
            form.fail(name, "must be text")
    form.check()
    return {name: "default" if value is None else value for name, value in body.items()}


def post_site(app: App, principal: Principal) -> dict:
    """Add a site."""
    values = _read_site_values(("domain", "timezone", "hostnames", *SITE_OVERRIDES))
    if not values.get("domain"):
        raise InvalidInput.of("domain", "is required")
    app.add_site(by=principal, **values)
    return {"domain": host_of(values["domain"])}


def patch_site(app: App, principal: Principal, domain: str) -> dict:
    """Change a site's settings."""
    site = _site_to_read(app, principal, domain)
    app.set_site(site.domain, principal, **_read_site_values(("timezone", "hostnames", *SITE_OVERRIDES)))
    return {}


def delete_site(app: App, principal: Principal, domain: str) -> dict:
    """Remove a site with everything it collected."""
    app.remove_site(_site_to_read(app, principal, domain).domain, principal)
    return {}


def post_demo(app: App, principal: Principal) -> dict:
    """Fill a site with made-up visits, so that there is something to look at."""
    if not app.making_demo.acquire(blocking=False):
        raise Busy("The made-up visits are being written just now.")
    try:
        return {"site": DEMO_SITE, "pageviews": fill_demo(app, DEMO_SITE, DEMO_PAGEVIEWS, 365, 1, by=principal)}
    finally:
        app.making_demo.release()


def _site_to_read(app: App, principal: Principal, domain: Any) -> Site:
    """Return a site that the principal may see. Raises NotFound. Whoever the guard let in to change things may change them here too."""
    site = find_site(app.store.reader(), app.settings, domain) if isinstance(domain, str) else None
    if site is None or not principal.may_read(site):  # one answer for both: a token tells nothing of other sites
        raise NotFound("There is no such site, or it may not be read.", [{"field": "site_id", "message": "must be the domain of a site here"}])
    return site


def post_query(app: App, principal: Principal) -> bottle.HTTPResponse:
    """Answer a query of Plausible's Stats API v2."""
    return _respond_question(app, principal, run_queries)


def _respond_question(app: App, principal: Principal, make: Maker, complete: Callable[[Site, Mapping], Mapping] = lambda _, body: body) -> bottle.HTTPResponse:
    """Answer the one question that a body asks about a site, once it is complete."""
    body, form = read_form()
    form.text("site_id", most=253, required=True)
    form.check()
    site = _site_to_read(app, principal, body["site_id"])
    return _respond_report(app.answers.of(site, [complete(site, body)], _asking(app, principal, site), make)[1:-1])


def post_queries(app: App, principal: Principal) -> bottle.HTTPResponse:
    """Answer several queries about one site in one pass over its data: {"queries": [body, …]} gives {"answers": [answer, …]}."""
    body, _ = read_form()
    bodies = body.get("queries")
    if set(body) != {"queries"} or not isinstance(bodies, list) or not 1 <= len(bodies) <= MAX_QUERIES or not all(
            isinstance(each, dict) for each in bodies):
        raise InvalidInput.of("queries", f"must be a list of 1 to {MAX_QUERIES} bodies of /api/v2/query, and nothing else")
    domains = {each["site_id"] if isinstance(each.get("site_id"), str) else "" for each in bodies}
    if len(domains) > 1:
        raise InvalidInput.of("queries", "must all be about one site_id")
    site = _site_to_read(app, principal, domains.pop())
    return _respond_report(b'{"answers":' + app.answers.of(site, bodies, _asking(app, principal, site)) + b"}")


def post_journeys(app: App, principal: Principal) -> bottle.HTTPResponse:
    """What came before or after something, within the visits."""
    return _respond_question(app, principal, run_journeys)


def post_retention(app: App, principal: Principal) -> bottle.HTTPResponse:
    """Which visitors came back, as far as it can be known."""
    return _respond_question(app, principal, run_retention)


def _asking(app: App, principal: Principal, site: Site) -> Definitions:
    """Return what the questions of whoever asks may name."""
    return read_definitions(app.store.reader(), site.id, _person(principal))


def _person(principal: Principal) -> int | None:
    """Return the id of the person who asks, if it is one: only people have things of their own."""
    return principal.id if principal.kind == "person" else None


def _site_to_edit(app: App, principal: Principal, domain: Any) -> Site:
    principal.require("editor")
    return _site_to_read(app, principal, domain)


def get_named(kind: str, app: App, principal: Principal) -> dict:
    """The goals, segments or funnels of a site, some at a time."""
    given = read_arguments()
    site = _site_to_read(app, principal, given.get("site_id"))
    try:
        limit, offset = _read_pagination({name: int(given[name]) for name in ("limit", "offset") if name in given})
    except ValueError:
        raise InvalidInput.of("limit", "and offset must be whole numbers") from None
    db = app.store.reader()
    named = visible_named(db, kind, site.id, _person(principal))
    return {kind: [each.as_json() for each in named[offset:offset + limit]], "total": len(named)}


def post_named(kind: str, app: App, principal: Principal) -> bottle.HTTPResponse:
    """Add a goal, segment or funnel."""
    body, form = read_form()
    form.text("site_id", most=253, required=True)
    personal = form.flag("personal") if kind == "segments" else False
    form.check()
    site = (_site_to_read if personal else _site_to_edit)(app, principal, body["site_id"])
    noting = _noting(app, principal, site, "added")
    return respond_json(save_named(app.store, kind, site, _owner(principal, personal), body, also=noting).as_json(), 201)


def _noting(app: App, by: Principal, site: Site, done: str, before: Named | None = None) -> Callable[[sqlite3.Connection, Named], None]:
    """Return what writes into the audit trail that something was done to what others see, too; personal things are one's own."""
    def noting(db: sqlite3.Connection, named: Named) -> None:
        if named != before and None in (named.user_id, (before or named).user_id):
            renamed = f"; it was called {before.name}" if before and before.name != named.name else ""
            note(db, app.clock(), by, f"{named.kind[:-1]} {done}", named.name, f"of {site.domain}{renamed}")
    return noting


def _owner(principal: Principal, personal: bool | None) -> int | None:
    """Return the person that something belongs to, or None where it is shared."""
    user_id = _person(principal) if personal else None
    if personal and user_id is None:
        raise InvalidInput.of("personal", "is for people; a token can only share what it makes")
    return user_id


def patch_named(kind: str, app: App, principal: Principal, id: int) -> dict:
    """Change some of a goal, segment or funnel."""
    body, form = read_form()
    before, site = _named_to_edit(app, principal, kind, id)
    personal = form.flag("personal") if kind == "segments" else False
    form.check()
    if personal is False and before.user_id is not None:
        _site_to_edit(app, principal, site.domain)
    user_id = before.user_id if personal is None else _owner(principal, personal)
    return save_named(app.store, kind, site, user_id, body, before, _noting(app, principal, site, "changed", before)).as_json()


def delete_named(kind: str, app: App, principal: Principal, id: int) -> dict:
    """Delete a goal, segment or funnel that nothing else uses."""
    named, site = _named_to_edit(app, principal, kind, id)

    def remove(db: sqlite3.Connection) -> None:
        remove_named(db, named)
        _noting(app, principal, site, "removed")(db, named)
    app.store.transact(remove)
    return {}


def _named_to_edit(app: App, principal: Principal, kind: str, id: int) -> tuple[Named, Site]:
    db = app.store.reader()
    named = find_named(db, kind, id, _person(principal))
    domain, = db.execute("select domain from sites where id = ?", (named.site_id,)).fetchone()
    return named, (_site_to_edit if named.user_id is None else _site_to_read)(app, principal, domain)


def post_funnel_report(app: App, principal: Principal) -> bottle.HTTPResponse:
    """Who gets how far in a funnel: one of the site's, or one that the question itself describes."""
    return _respond_question(app, principal, run_funnels, functools.partial(_with_funnel, app))


def _with_funnel(app: App, site: Site, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a question with the steps of the funnel that it names, if it does."""
    form = Form(body)
    number = form.integer("funnel_id", least=1, most=2 ** 62)
    if number and {"steps", "order", "window"} & set(body):
        form.fail("funnel_id", "stands in the place of steps, order and window")
    form.check()
    for funnel in list_named(app.store.reader(), "funnels", site.id) if number else ():
        if funnel.id == number:
            return {**body, **funnel.definition}
    if number:
        raise NotFound("There is no such funnel.", [{"field": "funnel_id", "message": "must be the id of a funnel of this site"}])
    return body


def get_suggestions(app: App, principal: Principal) -> dict:
    """Goals that might be wanted."""
    site = _site_to_read(app, principal, read_arguments().get("site_id"))
    return {"suggestions": suggest_goals(app.store.reader(), site, app.clock())}


def _respond_report(answer: bytes) -> bottle.HTTPResponse:
    etag = etag_of(answer)
    if is_fresh(etag):
        return bottle.HTTPResponse(status=304, ETag=etag)
    return bottle.HTTPResponse(answer, 200, **{"Content-Type": "application/json", "Cache-Control": "private, no-cache", "ETag": etag})


def get_realtime(app: App, principal: Principal) -> bottle.HTTPResponse:
    """The current visitors, as a bare number."""
    site = _site_to_read(app, principal, read_arguments().get("site_id"))
    return respond_json(current_visitors(app.store.reader(), site, app.clock()))


def get_live(app: App, principal: Principal) -> dict:
    """What happens on a site just now."""
    site = _site_to_read(app, principal, read_arguments().get("site_id"))
    with app.store.snapshot() as db:
        return live(db, site, app.clock())


def get_dropped(app: App, principal: Principal) -> dict:
    """What was not counted, by day and reason."""
    site = _site_to_read(app, principal, read_arguments().get("site_id"))
    return {"results": dropped_hits(app.store.reader(), site, *_read_days(app, site)), "reasons": DROP_REASONS}


def _read_days(app: App, site: Site) -> tuple[date, date]:
    """Return the first and the last day that the arguments `from` and `to` name, today where they are missing."""
    today = local_date(app.clock(), site.zone)
    try:
        first, last = (date.fromisoformat(read_arguments().get(name) or today.isoformat()) for name in ("from", "to"))
        if not 1970 <= first.year <= last.year <= 2100:
            raise ValueError
    except ValueError:
        raise InvalidInput.of("from", "and to must be dates such as 2026-01-31, between 1970 and 2100") from None
    return first, last


def get_properties(app: App, principal: Principal) -> dict:
    """The names of the custom properties of some days, which are dimensions of queries."""
    site = _site_to_read(app, principal, read_arguments().get("site_id"))
    return {"properties": property_names(app.store.reader(), site, *_read_days(app, site))}


def get_annotations(app: App, principal: Principal) -> dict:
    """The notes on some days of a site, and whether more can be written."""
    site = _site_to_read(app, principal, read_arguments().get("site_id"))
    return {"annotations": list_annotations(app.store.reader(), site, *_read_days(app, site)), "may_edit": principal.may("editor")}


def _read_annotation(*required: str) -> dict[str, str]:
    body, form = read_form()
    names = {*required, *({"at", "text"} & set(body))}
    values = {name: form.text(name, most=2 * ANNOTATION_LENGTH, required=True) for name in sorted(names)}
    form.check()
    return values


def post_annotation(app: App, principal: Principal) -> dict:
    """Write a note on a day or an hour of a site."""
    values = _read_annotation("site_id", "at", "text")
    site = _site_to_read(app, principal, values.pop("site_id"))

    def add(db: sqlite3.Connection) -> int:
        note(db, app.clock(), principal, "note added", f"of {values['at']}", f"of {site.domain}")
        return add_annotation(db, site, principal.actor, **values)
    return {"id": app.store.transact(add)}


def _change_annotation(app: App, principal: Principal, id: int, done: str, change: Callable[[sqlite3.Connection], None]) -> dict:
    row = app.store.reader().execute("select s.domain, a.at from annotations a join sites s on s.id = a.site_id where a.id = ?", (id,)).fetchone()
    if row is None:
        raise NotFound("There is no such note.")
    domain, at = row
    _site_to_read(app, principal, domain)

    def change_and_note(db: sqlite3.Connection) -> None:
        change(db)
        note(db, app.clock(), principal, f"note {done}", f"of {at}", f"of {domain}")
    app.store.transact(change_and_note)
    return {}


def patch_annotation(app: App, principal: Principal, id: int) -> dict:
    """Change a note."""
    values = _read_annotation()
    return _change_annotation(app, principal, id, "changed", lambda db: change_annotation(db, id, **values))


def delete_annotation(app: App, principal: Principal, id: int) -> dict:
    """Remove a note."""
    return _change_annotation(app, principal, id, "removed", lambda db: remove_annotation(db, id))


class Route(NamedTuple):
    """A row of the table: what is asked, who may ask, who answers, and whether pages of other sites may."""

    method: str
    path: str
    guard: Callable[[App], Principal | None]
    handler: Callable[[App, Any], Any]
    headers: Mapping[str, str] = {}


ROUTES = (
    Route("GET", "/", anyone, get_dashboard),
    Route("GET", "/health", anyone, get_health),
    Route("GET", "/tracker.js", anyone, get_tracker),
    Route("GET", "/js/script.js", anyone, get_tracker),
    Route("POST", "/api/event", anyone, post_event, COLLECTION_HEADERS),
    Route("OPTIONS", "/api/event", anyone, preflight_event, COLLECTION_HEADERS),
    Route("GET", "/pixel.gif", anyone, get_pixel, COLLECTION_HEADERS),
    Route("GET", "/api/session", anyone, get_session),
    Route("POST", "/api/setup/check", same_origin, post_setup_check),
    Route("POST", "/api/setup", same_origin, post_setup),
    Route("POST", "/api/login", same_origin, post_login),
    Route("POST", "/api/logout", same_origin, post_logout),
    Route("GET", "/api/account", signed_in, get_account),
    Route("POST", "/api/account/password", signed_in, post_password),
    Route("DELETE", "/api/account/sessions/<id:int>", signed_in, delete_session),
    Route("POST", "/api/account/two-factor", signed_in, post_two_factor),
    Route("POST", "/api/account/two-factor/confirm", signed_in, post_two_factor_confirm),
    Route("POST", "/api/account/two-factor/off", signed_in, post_two_factor_off),
    Route("POST", "/api/account/recovery-codes", signed_in, post_recovery_codes),
    Route("GET", "/api/users", admin, get_users),
    Route("PATCH", "/api/users/<id:int>", admin, patch_user),
    Route("DELETE", "/api/users/<id:int>", admin, delete_user),
    Route("POST", "/api/invites", admin, post_invite),
    Route("DELETE", "/api/invites/<id:int>", admin, delete_invite),
    Route("POST", "/api/invites/check", same_origin, post_invite_check),
    Route("POST", "/api/invites/accept", same_origin, post_invite_accept),
    Route("GET", "/api/tokens", signed_in, get_tokens),
    Route("POST", "/api/tokens", signed_in, post_token),
    Route("DELETE", "/api/tokens/<id:int>", signed_in, delete_token),
    Route("GET", "/api/settings", admin, get_settings),
    Route("PATCH", "/api/settings", owner, patch_settings),
    Route("GET", "/api/audit", owner, get_audit),
    Route("GET", "/api/sites", viewer, get_sites),
    Route("POST", "/api/sites", site_admin, post_site),
    Route("PATCH", "/api/sites/<domain>", editor, patch_site),
    Route("DELETE", "/api/sites/<domain>", site_admin, delete_site),
    Route("POST", "/api/demo", site_admin, post_demo),
    Route("GET", "/api/dropped", viewer, get_dropped),
    Route("GET", "/api/properties", viewer, get_properties),
    Route("GET", "/api/annotations", viewer, get_annotations),
    Route("POST", "/api/annotations", editor, post_annotation),
    Route("PATCH", "/api/annotations/<id:int>", editor, patch_annotation),
    Route("DELETE", "/api/annotations/<id:int>", editor, delete_annotation),
    Route("GET", "/api/live", viewer, get_live),
    Route("GET", "/api/v1/stats/realtime/visitors", viewer, get_realtime),
    Route("POST", "/api/v2/query", viewer, post_query),
    Route("POST", "/api/v2/queries", viewer, post_queries),
    Route("POST", "/api/journeys", viewer, post_journeys),
    Route("POST", "/api/retention", viewer, post_retention),
    Route("GET", "/api/goals/suggestions", viewer, get_suggestions),
    Route("GET", "/api/goals", viewer, functools.partial(get_named, "goals")),
    Route("POST", "/api/goals", editor, functools.partial(post_named, "goals")),
    Route("PATCH", "/api/goals/<id:int>", editor, functools.partial(patch_named, "goals")),
    Route("DELETE", "/api/goals/<id:int>", editor, functools.partial(delete_named, "goals")),
    Route("GET", "/api/segments", viewer, functools.partial(get_named, "segments")),
    Route("POST", "/api/segments", viewer, functools.partial(post_named, "segments")),
    Route("PATCH", "/api/segments/<id:int>", viewer, functools.partial(patch_named, "segments")),
    Route("DELETE", "/api/segments/<id:int>", viewer, functools.partial(delete_named, "segments")),
    Route("GET", "/api/funnels", viewer, functools.partial(get_named, "funnels")),
    Route("POST", "/api/funnels", editor, functools.partial(post_named, "funnels")),
    Route("PATCH", "/api/funnels/<id:int>", editor, functools.partial(patch_named, "funnels")),
    Route("DELETE", "/api/funnels/<id:int>", editor, functools.partial(delete_named, "funnels")),
    Route("POST", "/api/funnels/report", viewer, post_funnel_report),
)


def _answer(app: App, route: Route, **named: Any) -> bottle.HTTPResponse:
    """Answer a request by its route, with what its path names: the one place where errors become responses."""
    try:
        app.scheduler.start()
        app.store.begin()
        if not 0 < named.get("id", 1) < 2 ** 62:
            raise NotFound("There is nothing of this number.")
        result = route.handler(app, route.guard(app), **named)
        answer = result if isinstance(result, bottle.HTTPResponse) else respond_json(result)
    except MiniNumbersError as error:
        answer = respond_error(error)
    except Exception as error:
        answer = _respond_unforeseen(error)
    for name, value in {**SAFE_HEADERS, **_over_https(), **route.headers, **answer.headers}.items():
        answer.headers[name] = value
    return answer


def _over_https() -> dict[str, str]:
    return {"Strict-Transport-Security": "max-age=31536000"} if bottle.request.environ["wsgi.url_scheme"] == "https" else {}


def _respond_unforeseen(error: Exception) -> bottle.HTTPResponse:
    if isinstance(error, sqlite3.Error):
        log.error("reading failed: %s", error)
        return respond_error(Busy("The database cannot be read just now. Try again in a moment."))
    log.error("a request failed: %s", describe(error))
    return respond_json({"error": "Something went wrong on the server; its log says where.", "code": "internal", "details": []}, 500)


def _http_error(error: bottle.HTTPError) -> str:
    """Return the JSON for what the router itself refuses."""
    messages = {404: ("There is nothing at this address.", "not-found"), 405: ("This address does not answer that method.", "method")}
    message, code = messages.get(error.status_code, ("The request could not be understood.", "bad-request"))
    bottle.response.content_type = "application/json"
    bottle.response.headers.update({**SAFE_HEADERS, **_over_https(), "Cache-Control": "no-store"})
    return to_json({"error": message, "code": code, "details": []}).decode()


def build_wsgi(app: App) -> Callable:
    """Return the WSGI callable of all routes, behind the proxies that are trusted."""
    router = bottle.Bottle()
    router.default_error_handler = _http_error
    for route in ROUTES:
        router.route(route.path, route.method, functools.partial(_answer, app, route))
    return behind_proxies(router, app.settings)


def behind_proxies(wsgi: Callable, settings: Settings) -> Callable:
    """Return `wsgi` so that it sees the visitor's address: forwarded headers are believed from trusted proxies, and removed from all.

    waitress has the like, but it logs the address of who sends a malformed header, answers 400 to it, which loses the hit, and
    reads ::ffff:192.0.2.1 as ::ffff.
    """
    @functools.lru_cache(maxsize=256)
    def is_trusted(peer: str) -> bool:
        address = _ip(address_of(peer))
        return address is not None and any(address in network for network in settings.trusted_networks)

    def wrapped(environ: dict, start_response: Callable) -> Iterable[bytes]:
        told = {name: environ.pop(f"HTTP_{name}", "") for name in _FORWARDED}
        if is_trusted(environ.get("REMOTE_ADDR", "")):
            _believe(environ, told, settings.trusted_proxy_count)
        return wsgi(environ, start_response)
    return wrapped


_FORWARDED = ("X_FORWARDED_FOR", "X_FORWARDED_PROTO", "X_FORWARDED_HOST", "X_FORWARDED_PORT", "X_FORWARDED_BY", "FORWARDED")
_WITH_PORT = re.compile(r"\[([^\]]*)\](?::\d*)?|([^:]*)(?::\d*)?")


def _from_outermost(header: str, proxies: int) -> str:
    """Return what the outermost trusted proxy wrote into a list that each proxy may have added to."""
    values = [value.strip().strip('"') for value in header.split(",")]
    return values[-min(proxies, len(values))]


def _believe(environ: dict, told: Mapping[str, str], proxies: int) -> None:
    """Put what the proxies tell in the place of what the socket says."""
    hop, scheme, host = (_from_outermost(told[f"X_FORWARDED_{name}"], proxies) for name in ("FOR", "PROTO", "HOST"))
    if hop:
        match = _WITH_PORT.fullmatch(hop) if (":" in hop or "[" in hop) and not _ip(hop) else None
        environ["REMOTE_ADDR"] = (match[1] or match[2]) if match else hop
    if scheme.lower() in ("http", "https"):
        environ["wsgi.url_scheme"] = scheme.lower()
    if re.fullmatch(r"[A-Za-z0-9._-]+(:\d+)?|\[[0-9A-Fa-f:]+\](:\d+)?", host):
        environ["HTTP_HOST"] = host


# ---- create_app ------------------------------------------------------------------------------------------------------

class App:
    """Mini Numbers as a WSGI application, and by its methods to the program that embeds it.

    What changes something takes `by`, who does it: the audit trail tells, and the operator of the server may everything.
    """

    def __init__(self, settings: Settings, clock: Clock = time.time):
        self.clock = clock
        self.dashboard, self.tracker = dashboard_file(), tracker_file()
        self.store = Store(settings.db, asset("schema.sql").read_text("utf-8"), settings.queue,
                           settings.threads - settings.threads // 4)
        self.current = CurrentSettings(settings, self.store)
        try:
            self.collector = Collector(self.current, self.store, clock)
        except BaseException:
            self.store.close()
            raise
        self.accounts = Accounts(self.current, self.store, clock)
        self.answers = Answers(self.store, clock)
        self.scheduler = Scheduler(self)
        self.token_limits = Limiter(clock)
        # A process that was killed before it finished with these leaves them to the next.
        self.log_holds_salts = self.texts_may_be_unused = True
        self.making_demo = threading.Lock()
        self._wsgi = build_wsgi(self)

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        return self._wsgi(environ, start_response)

    @property
    def settings(self) -> Settings:
        """The settings in effect."""
        return self.current()

    def setup(self, username: str, password: str, domain: str | None = None, timezone: str = "UTC", by: Principal = OPERATOR, **more: Any) -> None:
        """Create an owner, and a site unless `domain` is None. Raises InvalidInput, and then nothing was created."""
        self.accounts.setup(by, username, password, domain, timezone, **more)

    def add_site(self, domain: str, by: Principal = OPERATOR, **values: Any) -> None:
        """Add a site. Raises InvalidInput."""
        def add(db: sqlite3.Connection) -> None:
            renew(db, self.clock(), by).require("admin")
            add_site(db, int(self.clock()), domain=domain, **values)
            note(db, self.clock(), by, "site added", host_of(domain))
        self.store.transact(add)

    def set_site(self, domain: str, by: Principal = OPERATOR, **values: Any) -> None:
        """Change a site's settings. Raises NotFound and InvalidInput."""
        settings = self.settings

        def change(db: sqlite3.Connection) -> None:
            now_by, before = renew(db, self.clock(), by), get_site(db, settings, domain)
            now_by.require("editor")
            if not now_by.may_read(before):
                raise NotFound("There is no such site, or it may not be read.")
            set_site(db, settings, int(self.clock()), domain, **values)
            if changed := differences(before, get_site(db, settings, domain)):
                note(db, self.clock(), by, "site changed", before.domain, changed)
        self.store.transact(change)

    def remove_site(self, domain: str, by: Principal = OPERATOR) -> None:
        """Remove a site with everything it collected. Raises NotFound."""
        settings = self.settings

        def remove(db: sqlite3.Connection) -> None:
            renew(db, self.clock(), by).require("admin")
            remove_site(db, settings, domain)
            note(db, self.clock(), by, "site removed", host_of(domain))
        self.store.transact(remove)
        purge(self)
        self.log_holds_salts = True  # and its own had been deleted at once
        rotate_salts(self)

    def change_settings(self, values: Mapping[str, Any], by: Principal = OPERATOR) -> None:
        """Store settings of the instance, of which None goes back to the default. Raises InvalidInput."""
        def change(db: sqlite3.Connection) -> None:
            renew(db, self.clock(), by).require("owner")
            if changed := self.current.change(db, int(self.clock()), values):
                note(db, self.clock(), by, "settings changed", "this server", changed)
        self.store.transact(change)

    def create_token(self, name: str, domain: str | None = None, read_only: bool = True) -> str:
        """Return a new token for all sites, or for one. Raises NotFound."""
        if domain is not None:
            get_site(self.store.reader(), self.settings, domain)
        return self.accounts.create_token(OPERATOR, name, None if domain is None else [domain], read_only)[1]

    def run_jobs(self) -> None:
        """Run the background jobs that are due, now and here."""
        self.scheduler.run_due()

    def close(self) -> None:
        """Finish what was begun and let go of every file and thread."""
        self.scheduler.stop()
        with contextlib.suppress(Busy):
            self.collector.record_limited()
        self.accounts.close()
        self.answers.close()
        self.store.close()
        self.collector.close()


def create_app(settings: Settings | None = None, clock: Clock = time.time) -> App:
    """Return Mini Numbers as a WSGI application, to be served or mounted under any prefix.

    `clock` tells the time in seconds since 1970. Raises MiniNumbersError when the database or a file cannot be used. The threads
    it needs start with the first request; `close()` stops them.
    """
    return App(settings or Settings.from_environment(), clock)


# ---- command line ----------------------------------------------------------------------------------------------------

class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, as every error here."""

    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _add_setting(parser: argparse.ArgumentParser, name: str, of_site: bool = False) -> None:
    setting = SETTINGS[name]
    default = "default: the instance's" if of_site else f"default {setting.default}, or MININUMBERS_{name.upper()}"
    parser.add_argument(f"--{name.replace('_', '-')}", metavar=name.rpartition("_")[2].upper(),
                        help=f"{setting.metadata['help']} ({default})".replace("%", "%%"))


def _add_site_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--timezone", metavar="TZ", help="IANA name of the time zone its days are counted in (default UTC)")
    parser.add_argument("--hostnames", help="further hosts that may report, separated by commas; *.example.org and * are understood")
    for name in SITE_OVERRIDES:
        _add_setting(parser, name, of_site=True)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; every flag of a setting comes from Settings."""
    parser = _Parser(prog="mininumbers", description="Web analytics that you run yourself. Without a command it serves.")
    parser.add_argument("--version", action="version", version=f"Mini Numbers {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def command(name: str, function: Callable, help: str, settings: Iterable[str] = ("db",), parent: Any = commands) -> argparse.ArgumentParser:
        added = parent.add_parser(name, help=help, description=help.capitalize() + ".")
        added.set_defaults(function=function)
        for setting in settings:
            _add_setting(added, setting)
        return added

    command("serve", command_serve, "collect and show; the default command", SETTINGS)
    setup = command("setup", command_setup, "create an account, and perhaps its first site, without a browser")
    setup.add_argument("--username", help="name to sign in with (asked for if left out)")
    setup.add_argument("--password-stdin", action="store_true", help="read the password from standard input instead of asking for it")
    setup.add_argument("--site", metavar="DOMAIN", help="a site to add, as in example.com")
    setup.add_argument("--timezone", metavar="TZ", default="UTC", help="IANA name of the site's time zone (default UTC)")
    site = commands.add_parser("site", help="add, list, change and remove sites").add_subparsers(dest="action", metavar="ACTION", required=True,
                                                                                                parser_class=_Parser)
    for name, function, help in (("add", command_site_add, "add a site"), ("set", command_site_set, "change a site"),
                                 ("remove", command_site_remove, "remove a site and all it collected"), ("list", command_site_list, "list the sites")):
        added = command(name, function, help, parent=site)
        if name != "list":
            added.add_argument("domain", metavar="DOMAIN")
        if name in ("add", "set"):
            _add_site_arguments(added)
    token = commands.add_parser("token", help="create, list and revoke tokens for programs").add_subparsers(dest="action", metavar="ACTION", required=True,
                                                                                           parser_class=_Parser)
    create = command("create", command_token_create, "create a token and print it, this once", parent=token)
    create.add_argument("--name", required=True, help="what it is for")
    create.add_argument("--site", metavar="DOMAIN", action="append", help="a site it may see; several may be given (default every site)")
    create.add_argument("--read-only", action="store_true", help="let it change nothing")
    create.add_argument("--expires-in-days", type=int, metavar="N", help="days after which it is worth nothing (default never)")
    command("list", command_token_list, "list the tokens, never their secrets", parent=token)
    command("revoke", command_token_revoke, "make a token worth nothing", parent=token).add_argument("id", type=int, metavar="ID")
    _add_user_commands(commands.add_parser("user", help="add, list, change and remove people; give who is locked out a new password"), command)
    demo = command("demo", command_demo, "fill a site with made-up visits, to look at and to measure by")
    demo.add_argument("--site", metavar="DOMAIN", default=DEMO_SITE, help="the site, added where there is none (default %(default)s)")
    for name, default, help in (("pageviews", DEMO_PAGEVIEWS, "how many to make up"), ("days", 365, "days before today that they spread over"),
                                ("seed", 1, "the same seed gives the same visits"), ("paths", 300, "different pages, up to 200000")):
        demo.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{help} (default %(default)s)")
    command("purge", command_purge, "destroy salts that are over and delete what retention no longer covers", ("db", "retention_days"))
    rollup = command("rollup", command_rollup, "seal the days that are over, so that reports need not go through their hits")
    rollup.add_argument("--rebuild", action="store_true", help="forget what is sealed and make it anew")
    command("check", command_check, "check the database's integrity")
    return parser


def _add_user_commands(parser: argparse.ArgumentParser, command: Callable) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=_Parser)
    for name, function, help in (("add", command_user_add, "add somebody"), ("list", command_user_list, "list everybody"),
                                 ("set", command_user_set, "change somebody's role or sites"),
                                 ("passwd", command_user_passwd, "give somebody a new password, and end their sessions and second factor"),
                                 ("remove", command_user_remove, "remove somebody with their sessions and tokens")):
        added = command(name, function, help, parent=actions)
        if name != "list":
            added.add_argument("username", metavar="NAME")
        if name in ("add", "passwd"):
            added.add_argument("--password-stdin", action="store_true", help="read the password from standard input instead of asking for it")
        if name in ("add", "set"):
            added.add_argument("--role", choices=ROLES, default="viewer" if name == "add" else None, help="what they may do")
            added.add_argument("--site", metavar="DOMAIN", action="append", help="a site they may see; several may be given"
                               + (" (default every site)" if name == "add" else ""))
        if name == "set":
            added.add_argument("--every-site", action="store_true", help="let them see every site")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, or 2 after an error told in one line on standard error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0].startswith("-") and arguments[0] not in ("-h", "--help", "--version"):
        arguments.insert(0, "serve")
    given = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING if given.command == "serve" else logging.CRITICAL, format="%(levelname)s %(name)s: %(message)s")
    try:
        given.function(given)
        return 0
    except MiniNumbersError as error:
        cause = error.__cause__ if isinstance(error, Busy) else None
        print(f"mininumbers: {_explain(_settings(given).db, cause) if isinstance(cause, sqlite3.Error) else error}", file=sys.stderr)
    except sqlite3.Error as error:
        print(f"mininumbers: {_explain(_settings(given).db, error)}", file=sys.stderr)
    except UnicodeError:
        print("mininumbers: what was given is not text in UTF-8", file=sys.stderr)
    except (KeyboardInterrupt, BrokenPipeError):
        print("mininumbers: stopped", file=sys.stderr)
    return 2


def _settings(given: argparse.Namespace) -> Settings:
    """Return the settings that variables and flags make; a command's own flags of a site are not the instance's."""
    of_site = getattr(given, "action", None) in ("add", "set")
    flags = {name: value for name in SETTINGS if (value := getattr(given, name, None)) is not None and not (of_site and name in SITE_OVERRIDES)}
    return Settings.from_environment(**{name: parse_setting(name, value) for name, value in flags.items()})


@contextlib.contextmanager
def _open_app(given: argparse.Namespace, may_create: bool = False) -> Iterator[App]:
    """Give an App for one command, which must not make an empty database where a name was misspelt."""
    settings = dataclasses.replace(_settings(given), geoip="")
    if not may_create and not os.path.exists(settings.db):
        raise DatabaseError(f"{settings.db} does not exist: name the database with --db, or create one with `mininumbers setup`")
    with contextlib.closing(create_app(settings)) as app:
        yield app


def command_serve(given: argparse.Namespace) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    settings = _settings(given)
    logging.getLogger("waitress").addFilter(_discreet)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # it warns of every request that waits for a thread, as a burst's do
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # A hit changes threads some ten times, and beside a large report's pure Python waits this long at each; it is 5 ms by default.
    sys.setswitchinterval(0.0005)
    _give_memory_back()
    with contextlib.closing(create_app(settings)) as app:
        server = _create_server(app, settings)
        port = server.effective_listen[0][1] if hasattr(server, "effective_listen") else server.effective_port
        host = {"*": "localhost", "0.0.0.0": "localhost", "::": "::1"}.get(settings.host, settings.host)
        where = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        print(f"Mini Numbers {__version__}, database {os.path.abspath(settings.db)}\nOpen {where}", flush=True)
        if app.accounts.setup_code:
            print(f"Nobody has an account yet. Create yours, this link is for you alone:\n  {where}#setup={app.accounts.setup_code}", flush=True)
            if host == "localhost":
                print("From another computer, put this server's name or address in the place of localhost.", flush=True)
        app.scheduler.start()  # salts end by the clock, not by the next visit
        server.run()  # returns at Ctrl-C and SIGTERM, when the requests under way are answered


def _give_memory_back() -> None:
    """Have glibc keep less of what was freed: two arenas instead of eight for each core, and no large block. Halves our memory."""
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such function
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((-8, 2), (-1, 131_072), (-3, 131_072)):  # M_ARENA_MAX, M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
            mallopt(parameter, value)


def _discreet(record: logging.LogRecord) -> bool:
    """Reduce what waitress logs to where it happened: its messages quote addresses and paths."""
    record.msg, record.args, record.exc_info = f"a request could not be served ({record.module}:{record.lineno})", (), None
    return True


def _create_server(app: App, settings: Settings) -> Any:
    """Return a waitress server. Raises MiniNumbersError when the address cannot be listened on."""
    try:
        return waitress.create_server(
            app, listen=_listen(settings.host, settings.port), threads=settings.threads,
            # Workers leave small answers to the main loop: sending from both at once made the interpreter lock a convoy.
            send_bytes=65_536,
            backlog=2048,  # a burst waits in the kernel's queue instead of being refused
            connection_limit=1000,  # idle keep-alive connections of browsers count too
            asyncore_use_poll=True,  # select() ends the server at the first file numbered 1024: connections and databases reach that
            max_request_body_size=2 * BODY_LIMIT, inbuf_overflow=4 * BODY_LIMIT,  # no body is ever spooled to a disk …
            outbuf_overflow=64 * 2 ** 20,  # … and no report
            clear_untrusted_proxy_headers=False,  # behind_proxies() does that, for every server alike
            ident=None)
    except OSError as error:
        raise MiniNumbersError(f"cannot listen on {settings.host} port {settings.port} ({error.strerror or error}): "
                               "stop the program that uses it, or choose another with --port and --host") from error
    except ValueError as error:
        raise MiniNumbersError(f"cannot listen on {settings.host} port {settings.port}: that is no address of this machine") from error


def _listen(host: str, port: int) -> str:
    """Return waitress's spelling of where to listen; all interfaces are both families where the machine has both."""
    if host != "*":
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    listen = f"0.0.0.0:{port}"
    with contextlib.suppress(OSError):
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::", 0))
        listen += f" [::]:{port}" if port else ""
    return listen


def command_setup(given: argparse.Namespace) -> None:
    """Create an account and perhaps a site."""
    username = given.username or _ask("User name: ")
    password = _ask_password(given)
    check_user(username, password)  # before the database is made: what is refused leaves none behind
    check_site_values({"timezone": given.timezone, **({"domain": given.site} if given.site else {})})
    with _open_app(given, may_create=True) as app:
        app.setup(username, password, given.site, given.timezone)
    print(f"Created the account {username}" + (f" and the site {host_of(given.site)}" if given.site else "") + ".")


def _ask(prompt: str, how: Callable[[str], str] = input) -> str:
    if not sys.stdin.isatty():
        raise InvalidInput("where there is no terminal to ask at, give the name (setup --username NAME), and the password with --password-stdin")
    return how(prompt)


def _ask_password(given: argparse.Namespace) -> str:
    return sys.stdin.readline().rstrip("\r\n") if given.password_stdin else _ask("Password: ", getpass.getpass)


def _given_site_values(given: argparse.Namespace) -> dict[str, str]:
    names = ("timezone", "hostnames", *SITE_OVERRIDES)
    return {name: value for name in names if (value := getattr(given, name)) is not None}


def command_site_add(given: argparse.Namespace) -> None:
    """Add a site."""
    check_site_values({"domain": given.domain, **_given_site_values(given)})
    with _open_app(given, may_create=True) as app:
        app.add_site(given.domain, **_given_site_values(given))


def command_site_set(given: argparse.Namespace) -> None:
    """Change a site."""
    with _open_app(given) as app:
        app.set_site(given.domain, **_given_site_values(given))


def command_site_remove(given: argparse.Namespace) -> None:
    """Remove a site and all it collected."""
    with _open_app(given) as app:
        app.remove_site(given.domain)


def command_site_list(given: argparse.Namespace) -> None:
    """Print the sites, a line each."""
    with _open_app(given) as app:
        for site in list_sites(app.store.reader(), app.settings):
            print(f"{site.domain}\t{site.timezone}\t{site.mode}\trotation {site.rotation_hours} h\t"
                  f"retention {site.retention_days or 'for ever'}{' days' if site.retention_days else ''}\tgpc {site.gpc}"
                  + (f"\talso {', '.join(site.hostnames)}" if site.hostnames else ""))


def command_token_create(given: argparse.Namespace) -> None:
    """Print a new token."""
    if given.expires_in_days is not None and not 1 <= given.expires_in_days <= 3650:
        raise InvalidInput.of("expires-in-days", "must be from 1 to 3650")
    with _open_app(given) as app:
        print(app.accounts.create_token(OPERATOR, given.name, given.site, given.read_only, given.expires_in_days)[1])


def _day(second: int | None) -> str:
    return "never" if second is None else datetime.fromtimestamp(second, timezone.utc).date().isoformat()


def _sites(domains: list[str] | None) -> str:
    return "every site" if domains is None else ", ".join(domains) or "no site"


def command_token_list(given: argparse.Namespace) -> None:
    """Print the tokens, a line each."""
    with _open_app(given) as app:
        for token in app.accounts.tokens(OPERATOR):
            print(f"{token['id']}\t{token['name']}\t{'read' if token['read_only'] else 'read and write'}\t{_sites(token['sites'])}\t"
                  f"of {token['username'] or OPERATOR.name}\texpires {_day(token['expires_at'])}\tused {_day(token['used_at'])}")


def command_token_revoke(given: argparse.Namespace) -> None:
    """Revoke a token."""
    with _open_app(given) as app:
        app.accounts.revoke_token(OPERATOR, given.id)


def command_user_add(given: argparse.Namespace) -> None:
    """Add somebody."""
    password = _ask_password(given)
    check_user(given.username, password)
    with _open_app(given) as app:
        app.accounts.add_user(OPERATOR, given.username, password, given.role, given.site)


def command_user_list(given: argparse.Namespace) -> None:
    """Print everybody, a line each."""
    with _open_app(given) as app:
        for user in app.accounts.people(OPERATOR)["users"]:
            print(f"{user['username']}\t{user['role']}\t{_sites(user['sites'])}\t{'two-factor' if user['two_factor'] else 'password'}\t"
                  f"seen {_day(user['seen_at'])}")


def command_user_set(given: argparse.Namespace) -> None:
    """Change somebody's role or sites."""
    with _open_app(given) as app:
        sites = None if given.every_site else given.site or ...
        app.accounts.set_user(OPERATOR, named_user(app.store.reader(), given.username).id, given.role, sites)


def command_user_passwd(given: argparse.Namespace) -> None:
    """Give somebody who is locked out a new password."""
    password = _ask_password(given)
    with _open_app(given) as app:
        if app.accounts.reset_password(given.username, password):
            print(f"Two-factor sign-in of {given.username} is switched off: it can be set up again in Settings.")
        tokens = [f"{token['id']} ({token['name']})" for token in app.accounts.tokens(OPERATOR) if token["username"] == given.username]
        if tokens:
            print(f"Tokens of {given.username} go on working: {', '.join(tokens)}. To end one: mininumbers token revoke ID")


def command_user_remove(given: argparse.Namespace) -> None:
    """Remove somebody."""
    with _open_app(given) as app:
        app.accounts.remove_user(OPERATOR, named_user(app.store.reader(), given.username).id)


def command_demo(given: argparse.Namespace) -> None:
    """Fill a site with made-up visits."""
    with _open_app(given, may_create=True) as app:
        pageviews = fill_demo(app, given.site, given.pageviews, given.days, given.seed, given.paths)
        print(f"Wrote {pageviews} pageviews of {host_of(given.site)}.", flush=True)
        seal(app)


def command_purge(given: argparse.Namespace) -> None:
    """Destroy salts that are over, and delete what is to be kept no longer."""
    with _open_app(given) as app:
        rotate_salts(app)
        settle_visits(app)
        print(f"Deleted {purge(app)} hits.")


def command_rollup(given: argparse.Namespace) -> None:
    """Seal the days that are over."""
    with _open_app(given) as app:
        settle_visits(app)
        print(f"Sealed {rebuild_rollups(app) if given.rebuild else seal(app)} days.")


def command_check(given: argparse.Namespace) -> None:
    """Print ok, or fail with what is wrong."""
    with _open_app(given) as app:
        if problems := check_database(app.store):
            raise DatabaseError("; ".join(problems[:20]) + ": restore the database from a backup")
    print("ok")


def run() -> None:
    """Run the command line as a program; what `mininumbers` calls once installed."""
    sys.exit(main())


if __name__ == "__main__":
    run()
