// The video page: all about the video, or the videos, of one task.

import "./theme.js";
import {
  dagHref, getTask, inTab, query, remembers, runHref, taskHref, videoHref, xcom, xcomKeys,
} from "./airflow.js";
import { describe, isActive, USUAL_SECONDS, wanted } from "./facts.js";
import { megabytes, number, span, t } from "./texts.js";
import { badge, bar, el, failure, icon, notice, outLink, release, video } from "./view.js";

const LOOK_SECONDS = 3;
const STEP = 60; // items made at a time

const place = query();
const main = document.querySelector("main");

let item = place.item === undefined ? undefined : Number(place.item); // which one of a batch
let shownItems = STEP;
let last = "";
let playing = ""; // what the player was made of
let kept; // whether clearing a task takes up its job: asked once, of what was paid

async function load() {
  const task = await getTask(place);
  const there = await xcomKeys(task);
  const xcoms = {};
  await Promise.all(wanted(task, there).map(async (name) => { xcoms[name] = await xcom(task, name); }));
  const found = describe(task, xcoms);
  if (found.paid) kept ??= await remembers();
  return found;
}

async function follow() {
  let again = true;
  try {
    if (!document.hidden || !last) {
      const found = await load();
      const told = JSON.stringify([found, found.status === "rendering" && Math.floor(Date.now() / 1000)]);
      if (told !== last) show(found);
      last = told;
      again = isActive(found.task);
    }
  } catch (error) {
    // What is shown stays while Airflow does not answer for a moment.
    if (!last || error.status === 401 || error.status === 403 || error.status === 404) {
      main.replaceChildren(failure(error, () => follow()));
      last = "";
      again = false;
    }
  }
  if (again) setTimeout(follow, LOOK_SECONDS * 1000);
}

const crumbs = el("nav", { id: "crumbs", class: "crumbs", "aria-label": t("breadcrumb") });
const heading = el("h1", { id: "task" });
const states = el("div", { id: "status", class: "badges", role: "status", "aria-live": "polite" });
const stage = el("div", { id: "stage" });
const prompt = el("div", { id: "prompt" });
const facts = el("dl", { id: "facts" });
const notes = el("div", { id: "notes" });
const actions = el("div", { id: "actions", class: "actions" });
const items = el("section", { id: "items" });

function show(found) {
  const isSomething = found.id || found.items?.length || found.completed !== undefined || found.elsewhere;
  if (!isSomething && found.status !== "rendering") return showNone(found);
  const one = found.items?.length ? pick(found.items) : found;
  if (!stage.isConnected) {
    main.replaceChildren(
      crumbs, el("header", { class: "top" }, heading, states),
      el("div", { class: "single" },
        el("div", {}, stage, prompt), el("aside", { class: "side" }, notes, facts, actions)), items);
  }
  showPlace(found);
  showStage(found, one);
  showPrompt(one.prompt ?? found.prompt);
  showNotes(found, one);
  showFacts(found, one);
  showActions(one);
  showItems(found, one);
}

const pick = (all) => all.find((one) => one.index === item) ?? all.find((one) => one.status === "ready") ?? all[0];

function showNone(found) {
  const kind = isActive(found.task) && found.task.operator?.includes("Hailuo") ? "not_yet"
    : found.task.operator?.includes("Hailuo") ? "unsent" : "foreign";
  showPlace(found);
  main.replaceChildren(...(inTab ? [] : [crumbs]), notice(kind, kind === "not_yet" ? "clock" : "film", {},
    !inTab && outLink(taskHref(found.task), { attributes: { class: "button" } }, icon("open"), t("open_task"))));
}

function showPlace({ task, status, paid }) {
  const name = `${task.name}${task.map_index >= 0 ? ` [${task.label ?? task.map_index}]` : ""}`;
  document.title = `${name} · ${t("title")}`;
  heading.textContent = name;
  const wantedStates = [status, ...(paid ? ["paid"] : [])];
  if (states.dataset.states !== wantedStates.join()) {
    states.dataset.states = wantedStates.join();
    states.replaceChildren(...wantedStates.map(badge));
  }
  crumbs.hidden = inTab;
  if (crumbs.firstChild) return;
  crumbs.append(el("ol", {},
    el("li", {}, el("a", { id: "to-gallery", href: "gallery" }, icon("grid"), t("all_videos"))),
    el("li", {}, outLink(dagHref(task), { attributes: { id: "to-dag" } }, task.dag_id)),
    el("li", {}, outLink(runHref(task), { attributes: { id: "to-run" } }, task.run_id)),
    el("li", {}, outLink(taskHref(task), { attributes: { id: "to-task" } }, name))));
}

function showStage(found, one) {
  const ready = one.status !== "rendering" && one.sources.length > 0;
  const made = ready ? `${one.index} ${one.sources.join(" ")}` : `${found.status} ${one.status}`;
  if (made === playing && ready) return;
  playing = made;
  const old = stage.querySelector("video");
  if (old) release(old);
  const box = el("div", { class: "media large", id: "player" });
  if (ready) {
    const player = video(one.sources, { controls: true, loop: true, "aria-label": one.prompt ?? t("video") }, () => {
      box.replaceChildren(icon("failed"), el("p", { class: "expired", role: "alert" },
        t(one.uri ? "expired_stored" : "expired")));
      for (const id of ["open", "download"]) document.getElementById(id)?.remove();
    });
    box.append(player);
  } else if (one.status === "rendering") {
    const seconds = found.task.start ? (Date.now() - Date.parse(found.task.start)) / 1000 : 0;
    const doing = found.items || found.total !== undefined && !found.id ? "batch_now"
      : found.progress === 100 ? "storing" : "rendering_now";
    box.append(el("div", { class: "waiting" },
      el("strong", {}, t(doing)),
      bar(found.progress),
      el("span", { id: "progress" }, [
        found.progress !== undefined && t("percent", { n: found.progress }),
        t("since", { time: span(seconds) }),
        seconds < USUAL_SECONDS && found.progress !== 100 && t("usual"),
      ].filter(Boolean).join(" · "))));
  } else {
    box.append(icon(one.status === "failed" ? "failed" : "film"), el("p", {}, t("no_link")));
  }
  stage.replaceChildren(box);
}

function showPrompt(text) {
  if (prompt.dataset.text === (text ?? "") && prompt.firstChild) return;
  prompt.dataset.text = text ?? "";
  const quote = el("p", { class: "prompt", id: "prompt-text" }, text ?? t("no_prompt"));
  const toggle = el("button", { type: "button", class: "plain", "aria-expanded": "false", "aria-controls": "prompt-text" },
    t("show_all"));
  toggle.addEventListener("click", () => {
    const open = quote.classList.toggle("open");
    toggle.setAttribute("aria-expanded", open);
    toggle.textContent = t(open ? "show_less" : "show_all");
  });
  prompt.replaceChildren(el("h2", {}, t("prompt")), quote, toggle);
  toggle.hidden = quote.scrollHeight <= quote.clientHeight + 2;
}

function showNotes(found, one) {
  const isIll = one.status === "failed" || found.status === "failed";
  const told = [
    found.paid && ["paid", `${t("paid_long")} ${t(kept ? "paid_kept" : "paid_anew")}`],
    one.refunded && ["refunded", t("refunded")],
    isIll && !one.error && !one.refunded && ["log", t("see_log")],
    found.elsewhere && ["elsewhere", t("elsewhere")],
    one.status === "submitted" && found.status !== "failed" && ["submitted", t("not_waited")],
  ].filter(Boolean);
  notes.replaceChildren(...told.map(([kind, text]) => el("p", { class: `note ${kind}`, "data-note": kind }, text)));
}

function showFacts(found, one) {
  const rows = [
    one.error && ["reason", el("span", { id: "reason" }, one.error)],
    one.jobStatus && ["status", one.jobStatus],
    one.model && ["model", one.model],
    one.resolution && ["resolution", one.resolution],
    one.duration !== undefined && ["duration", t("seconds_n", { n: one.duration })],
    one.credits !== undefined && ["credits", number(one.credits)],
    one.seconds !== undefined && ["render_time", span(one.seconds)],
    one.bytes !== undefined && ["size", megabytes(one.bytes)],
    one.id && ["job", copyable("job", one.id)],
    one.uri && ["stored", copyable("uri", one.uri)],
    found.items && found.uri && ["manifest", copyable("uri", found.uri)],
  ].filter(Boolean);
  const told = JSON.stringify(rows.map(([name, value]) => [name, value.textContent ?? value]));
  if (facts.dataset.told === told) return;
  facts.dataset.told = told;
  facts.replaceChildren(...rows.map(([name, value]) =>
    el("div", { "data-fact": name }, el("dt", {}, t(name)), el("dd", {}, value))));
}

function copyable(kind, text) {
  const said = el("span", { role: "status", class: "said" });
  const button = el("button", { type: "button", class: "copy", "aria-label": t(`copy_${kind}`), title: t(`copy_${kind}`) },
    icon("copy"));
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      getSelection().selectAllChildren(code); // where the browser lets no page copy, the user may
      if (!document.execCommand("copy")) return;
    }
    said.textContent = t("copied");
    setTimeout(() => { said.textContent = ""; }, 2000);
  });
  const code = el("code", {}, text);
  return el("span", { class: "copyable" }, code, button, said);
}

function showActions(one) {
  const url = one.sources[0];
  const told = `${one.status} ${url}`;
  if (actions.dataset.told === told) return;
  actions.dataset.told = told;
  const link = (name, symbol, href, more) => outLink(href,
    { ...more, attributes: { class: "button", id: name.replace("_", "-"), ...more?.attributes } }, icon(symbol), t(name));
  actions.replaceChildren(...[
    url && one.status !== "rendering" && link("open", "open", url, { blank: true }),
    url && one.status !== "rendering" && link("download", "download", url,
      { blank: true, attributes: { download: `${one.id ?? "video"}.mp4` } }),
    !inTab && link("open_task", "grid", taskHref(one.task)),
  ].filter(Boolean));
}

// The items of a batch

const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const media = target.querySelector(".media");
    const made = media.querySelector("video");
    if (isIntersecting && !made && target.one.sources.length) {
      media.replaceChildren(video(target.one.sources, { tabindex: -1, "aria-hidden": true }, () => {
        media.replaceChildren(icon("failed"));
      }), icon("play"));
    } else if (!isIntersecting && made) {
      release(made);
      media.replaceChildren(icon("film"));
    }
  }
}, { rootMargin: "300px 0px" });

function showItems(found, one) {
  items.hidden = !found.items?.length || found.items.length < 2;
  if (items.hidden) return;
  const told = JSON.stringify([found.items, shownItems]);
  if (items.dataset.told !== told) {
    items.dataset.told = told;
    near.disconnect();
    const nodes = found.items.slice(0, shownItems).map((each) => itemCard(found, each));
    const more = found.items.length > shownItems && el("button", { type: "button", class: "more", onclick: () => {
      shownItems += STEP;
      showItems(found, pick(found.items));
    } }, t("more"));
    const part = found.total > found.items.length && el("span", { class: "muted" },
      t("items_first", { n: found.items.length, total: found.total }));
    const summary = el("p", { class: "muted", id: "summary" }, [
      t("batch", { done: found.completed, total: found.total ?? found.items.length }),
      found.failed > 0 && `${t("failed")}: ${number(found.failed)}`,
      found.refused > 0 && `${t("refused")}: ${number(found.refused)}`,
      found.credits !== undefined && t("credits_n", { n: found.credits }),
    ].filter(Boolean).join(" · "));
    items.replaceChildren(...[
      el("h2", {}, t("items")), summary, part, el("ul", { class: "grid small" }, nodes), more,
    ].filter(Boolean));
    nodes.forEach((node) => near.observe(node));
  }
  for (const link of items.querySelectorAll("a[data-index]")) {
    if (Number(link.dataset.index) === one.index) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

function itemCard(found, each) {
  const link = el("a", { class: "watch", "data-index": each.index, href: videoHref(found.task, { item: each.index }) },
    el("div", { class: "media" }, icon(each.status === "failed" ? "failed" : "film")),
    el("span", { class: "prompt" }, each.prompt ?? t("item", { n: each.index + 1 })));
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    item = each.index;
    history.replaceState(null, "", link.href);
    show(found);
    stage.scrollIntoView({ block: "nearest" });
  });
  const card = el("li", { class: "card", "data-status": each.paid ? "paid" : each.status },
    link, el("div", { class: "badges" }, badge(each.status), each.paid && badge("paid")));
  card.one = each;
  return card;
}

if (place.dag_id && place.run_id && place.task_id) follow();
else main.replaceChildren(failure({ status: 404 }));
