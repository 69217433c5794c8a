/*
 * Mini Numbers' tracker: the script that a site loads.
 *
 *   <script defer src="https://stats.example.com/tracker.js" data-site="example.com"></script>
 *
 * data-site       the site's domain; without it, the page's host
 * data-api        where to send, if not to api/event beside this script
 * data-heartbeat  seconds after which reading time is told even while the page stays open
 * data-spa        "hash": the fragment is part of the page
 * data-localhost  count on localhost, too
 *
 * MiniNumbers.track("signup", {props: {plan: "pro"}, revenue: {amount: 9.5, currency: "EUR"}, interactive: false, url})
 * works at any time after   window.MiniNumbers ||= []; MiniNumbers.track ||= (...call) => MiniNumbers.push(call)
 *
 * It writes no cookie and no storage, and has no id to write. To be left out yourself, set localStorage.mn_ignore.
 *
 * tracker.min.js is this file, made small by
 *   npx --yes terser@5.51.2 tracker.js --toplevel --ecma 2020 -c passes=3,unsafe=true,unsafe_arrows=true -m -o tracker.min.js
 * and has at most 1,000 bytes once gzipped. That is why some things here are shorter than they are plain, and why the order of
 * keys in some objects is the one that compresses best.
 */
{
  let {
    src,
    dataset: {
      localhost = /^(.*localhost|127.+\d|\[::1])?$/.test(location.hostname), // of a file the host is empty
      site = location.hostname,
      api = src.replace(/(js\/s)?[^/]*$/, "api/event"), // beside tracker.js, or above js/script.js
      spa,
      heartbeat,
    },
  } = document.currentScript;

  // `calls` is what was asked of track() before this script came, and goes on as the queue of what was asked before the pageview.
  let silent, engaged, page, depth, route, done = 0, last = Date.now(), calls = window.MiniNumbers ||= [];

  // ---- sending -----------------------------------------------------------------------------------------------------------------

  // A beacon outlives its page in every browser, never throws, and as text is sent without asking the server first.
  // Every message has what was read of the page so far; the server looks at it only where the name is "engagement".
  let track = (name, options = {}) =>
    silent || navigator.sendBeacon(api, JSON.stringify({
      e: engaged,
      n: name,
      d: site,
      $: options.revenue,
      u: options.url || page,
      p: options.props,
      i: options.interactive,
      sd: depth,
      r: document.referrer,
      w: innerWidth,
      h: spa && 1,
    }));

  /** Tell how long and how far the page was read since this was last told. */
  let report = () => {
    if (engaged) track("engagement");
    engaged = 0;
  };

  // ---- pages -------------------------------------------------------------------------------------------------------------------

  /** Count a page if this is a new one, or one that came back whole from the browser's memory; then send what waited for it. */
  let view = (event, here = location[spa] || location.pathname) => {
    if (document.prerendering) return; // nobody has seen it yet
    if (event?.persisted ?? here != route) {
      report(); // of the page before, while `page` is still that one
      route = here;
      page = location.href;
      engaged = 1; // at least once, so that the depth is told of a page that was left at once
      depth = 0;
      track("pageview");
    }
    while (calls[done]) track(...calls[done++]);
  };

  /** Add what passed since the last look, if somebody was looking. A sleeping computer, or a frozen tab, adds no more than a moment. */
  let watch = (elapsed = -last + (last = Date.now())) => {
    view(); // where the browser has no navigation API, and when a prerendered page is shown
    if (!document.hidden && document.hasFocus()) {
      engaged += Math.min(999, elapsed);
      depth = Math.max(depth, Math.min(100, 100 * (scrollY + innerHeight) / document.documentElement.scrollHeight | 0));
      if (engaged > heartbeat * 1000 && +heartbeat) report();
    }
  };

  // ---- clicks ------------------------------------------------------------------------------------------------------------------

  /** Send the event that an element's attributes name (of a form, when it is submitted), a download, or an outbound link. */
  let click = ({ target, button }, props = {}, link = target.closest?.("a"), marked = target.closest?.("[data-mn-event]")) => {
    if (marked && (marked.action ? button == undefined : button < 2)) {
      for (let attribute of marked.attributes) {
        attribute.name.replace(/^data-mn-(?!event$)(.+)/, (_, key) => props[key] = attribute.value);
      }
      track(marked.dataset.mnEvent, { props });
    }
    let name = button < 2 && link?.host && ( // the left button and the middle one; mailto: has no host
      /\.(csv|exe|[dpx]\w[cst]x?|pdf|rar|w\w[av]|m\w[34v]|dmg|g?z(ip)?|pkg|7z)$/i.test(link.pathname) ? "File Download"
        : link.host != location.host && "Outbound Link: Click");
    if (name) track(name, { props: { url: link.origin + link.pathname } });
  };

  // ---- start -------------------------------------------------------------------------------------------------------------------

  // Not a robot, not at work on the site, not whoever asked to be left out, and not a second tag for the same site.
  try {
    silent = calls[api + site] || localhost === true || navigator.webdriver || localStorage.mn_ignore;
  } catch {} // a page may be forbidden its storage

  calls[api + site] = calls.track = (...call) => view(calls.push(call));
  let listeners = { submit: click, auxclick: click, click, visibilitychange: report, pagehide: report, pageshow: view };
  for (let type in listeners) addEventListener(type, listeners[type], true); // before a handler of the page can stop it
  window.navigation?.addEventListener("currententrychange", view);
  setInterval(watch, 100);
  watch();
}
