// Pieces that both pages are made of.

import { leadOut, ROOT } from "./airflow.js";
import { t } from "./texts.js";

// An element: what is text stays text.
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const ICONS = {
  play: "M8 5.5v13l11-6.5z",
  film: "M4 5h16v14H4zM8 5v14M16 5v14M4 9.5h4M4 14.5h4M16 9.5h4M16 14.5h4",
  failed: "M12 3.5 22 20H2zM12 10v4.5M12 17.3v.2",
  clock: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17zM12 7.5V12l3 2",
  search: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM15.5 15.5 20 20",
  refresh: "M19.5 12a7.5 7.5 0 1 1-2.2-5.3M19.5 4v4h-4",
  lock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  open: "M14 4h6v6M20 4l-9 9M18 14v6H4V6h6",
  download: "M12 4v11M7.5 11 12 15.5 16.5 11M4 20h16",
  grid: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
};

export function icon(name) {
  const filled = name === "play";
  return svg("svg", { viewBox: "0 0 24 24", class: filled ? "icon filled" : "icon", "aria-hidden": "true" },
    svg("path", { d: ICONS[name] }));
}

export const badge = (status) => el("span", { class: `badge ${status}`, "data-status": status }, t(status));

export function bar(percent) {
  const made = el("progress", { class: "bar", max: 100, "aria-label": t("progress") });
  if (percent !== undefined) made.value = percent;
  return made;
}

export function outLink(href, options, ...children) {
  const link = el("a", { href, ...options.attributes }, ...children);
  leadOut(link, options);
  return link;
}

// What stands where there is nothing to see, as a rule with nothing else beside it.
export function notice(kind, symbol, { heading = "h1", ...values } = {}, ...actions) {
  return el("section", { class: "notice", "data-notice": kind },
    icon(symbol), el(heading, {}, t(`${kind}_title`)), el("p", {}, t(`${kind}_text`, values)), ...actions);
}

export function failure(error, retry) {
  const again = el("button", { type: "button", onclick: retry }, t("retry"));
  if (error.status === 401) {
    return notice("signed_out", "lock", {}, outLink(ROOT.href, { attributes: { class: "button" } }, t("sign_in")));
  }
  if (error.status === 403) return notice("forbidden", "lock");
  if (error.status === 404) return notice("missing", "search");
  return notice("broken", "failed", { message: error.message }, again);
}

// A <video> that tries one source after the other, and tells when none can be played.
export function video(sources, attributes, onFailure) {
  const left = [...sources];
  const made = el("video", { playsinline: true, preload: "metadata", ...attributes });
  made.muted = true;
  const next = () => {
    const source = left.shift();
    if (source) made.src = source;
    else onFailure();
  };
  made.addEventListener("error", next);
  next();
  return made;
}

// Let go of what a <video> holds.
export function release(made) {
  made.removeAttribute("src");
  made.load();
  made.remove();
}
