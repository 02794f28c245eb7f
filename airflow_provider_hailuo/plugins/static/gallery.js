// The gallery: all videos that the user may see.

import "./theme.js";
import { getTask, keyOf, listTasks, query, taskHref, videoHref, xcom, xcomKeys } from "./airflow.js";
import { byDay, describe, isActive, isBatch, matches, TASK_STATES, USUAL_SECONDS, wanted } from "./facts.js";
import { dayName, moment, number, span, t } from "./texts.js";
import { badge, bar, el, failure, icon, notice, outLink, release, svg, video } from "./view.js";

const PAGE = 100; // task instances of a request
const BACKGROUND = 500; // how many are read unasked
const AT_ONCE = 4; // requests for XComs under way
const STEP = 48; // cards made at a time
const LOOK_SECONDS = 5; // between two looks at what renders
const DAYS = 30;

const main = document.querySelector("main");
const place = query(); // the DAG or the run of a tab
const fixed = { dag_id: place.dag_id, run_id: place.run_id };
const filters = { state: place.state ?? "", dag: place.dag ?? "", words: place.q ?? "", from: place.from ?? "", to: place.to ?? "" };

let generation = 0; // what belongs to former filters is dropped
let tasks = new Map(); // task instances by key, the newest first
let known = new Map(); // what their XComs tell, by key
let total = 0;
let offset = 0;
let shown = STEP;
let loading = false;
const dags = new Set(filters.dag ? [filters.dag] : []);
const cards = new Map();

// Filters ask for less, as far as Airflow knows of it; the rest is sought in what was read.

function asked() {
  const dayAfter = (value) => {
    const at = new Date(`${value}T00:00:00`);
    at.setDate(at.getDate() + 1);
    return at.toISOString();
  };
  return {
    dag_id: fixed.dag_id ?? (filters.dag || undefined),
    run_id: fixed.run_id,
    state: TASK_STATES[filters.state],
    start_date_gte: filters.from && new Date(`${filters.from}T00:00:00`).toISOString(),
    start_date_lt: filters.to && dayAfter(filters.to),
  };
}

const factsOf = (key) => known.get(key) ?? describe(tasks.get(key));

function fitting() {
  return [...tasks.keys()].filter((key) => {
    const found = factsOf(key);
    return (filters.state !== "paid" || found.paid) && (!filters.words.trim() || matches(found, filters.words));
  });
}

async function start() {
  const mine = ++generation;
  tasks = new Map();
  known = new Map();
  total = offset = 0;
  shown = STEP;
  queue.clear();
  for (const card of cards.values()) card.remove();
  cards.clear();
  try {
    await nextPage();
    if (mine !== generation) return;
    while (offset < Math.min(total, BACKGROUND) && mine === generation) await nextPage();
  } catch (error) {
    if (mine === generation) fail(error);
  }
}

async function nextPage() {
  const mine = generation;
  loading = true;
  const page = await listTasks(asked(), offset, PAGE);
  if (mine !== generation) return;
  loading = false;
  total = page.total;
  offset += PAGE;
  for (const task of page.tasks) {
    const key = keyOf(task);
    if (tasks.has(key)) continue; // others have come in between
    tasks.set(key, task);
    dags.add(task.dag_id);
    queue.add(key);
  }
  draw();
  work();
}

// XComs: a few requests at a time, those of visible cards first.

const queue = new Set();
const visible = new Set();
let working = 0;

function work() {
  while (working < AT_ONCE && queue.size) {
    const key = [...visible].find((one) => queue.has(one)) ?? queue.values().next().value;
    queue.delete(key);
    working += 1;
    read(key, generation).finally(() => {
      working -= 1;
      work();
    });
  }
}

async function read(key, mine) {
  const task = tasks.get(key);
  let xcoms;
  try {
    const keys = wanted(task) ?? wanted(task, await xcomKeys(task));
    xcoms = Object.fromEntries(await Promise.all(keys.map(async (name) => [name, await xcom(task, name)])));
  } catch (error) {
    if (error.status === 401 && mine === generation) return fail(error);
    // XComs that this user may not read: the card shows what the task instance tells.
  }
  if (mine !== generation || !tasks.has(key)) return;
  known.set(key, describe(task, xcoms));
  draw();
}

// What renders is looked at again while it is on the screen.
async function look() {
  const mine = generation;
  const keys = document.hidden ? [] : [...visible].filter((key) => tasks.has(key) && isActive(tasks.get(key)));
  for (const key of keys.slice(0, 2 * AT_ONCE)) {
    try {
      const task = await getTask(tasks.get(key));
      if (mine !== generation) break;
      tasks.set(key, task);
      await read(key, mine);
    } catch {
      break; // the next look may do better
    }
  }
  setTimeout(look, LOOK_SECONDS * 1000);
}

// The page

const count = el("p", { id: "count", class: "count", role: "status", "aria-live": "polite" });
const reading = el("span", { id: "reading", class: "muted" });
const values = Object.fromEntries(["videos", "credits", "failed", "paid"].map((name) => [name, el("span", { class: "value" })]));
const tile = (name, tag, attributes) => el(tag, { class: `tile ${name}`, id: `total-${name}`, ...attributes },
  values[name], el("span", { class: "muted" }, t(name)));
const totals = el("section", { id: "totals", class: "totals", "aria-label": t("videos") },
  tile("videos", "div"), tile("credits", "div"), tile("failed", "div"),
  tile("paid", "button", { type: "button", onclick: () => filter({ state: "paid" }) }), chart([]));
const grid = el("ul", { id: "cards", class: "grid" });
const empty = el("div", { id: "empty" });
const clear = el("button", { id: "clear", type: "button", onclick: () => filter({}) }, t("clear"));
const more = el("button", { id: "more", type: "button", class: "more", onclick: () => extend() }, t("more"));

function field(name, control) {
  return el("label", { class: "field" }, el("span", {}, t(name)), control);
}

const options = (all) => Object.entries(all).map(([value, text]) => el("option", { value }, text));

const controls = {
  state: el("select", { id: "filter-state" }, options({
    "": t("all_states"), ready: t("ready"), rendering: t("rendering"), failed: t("failed"), paid: t("paid"),
  })),
  dag: el("select", { id: "filter-dag" }, options({ "": t("all_dags") })),
  words: el("input", { id: "filter-words", type: "search", autocomplete: "off", maxlength: 200 }),
  from: el("input", { id: "filter-from", type: "date" }),
  to: el("input", { id: "filter-to", type: "date" }),
};

function build() {
  for (const [name, control] of Object.entries(controls)) {
    control.value = filters[name];
    control.addEventListener(name === "words" ? "input" : "change", () => {
      filters[name] = control.value;
      remember();
      if (name === "words") {
        shown = STEP;
        draw();
      } else start();
    });
  }
  main.replaceChildren(
    el("header", { class: "top" },
      el("h1", {}, t("title")), count, reading,
      el("button", { id: "refresh", type: "button", class: "push", onclick: () => start() }, icon("refresh"), t("refresh"))),
    totals,
    el("form", { id: "filters", class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
      el("label", { class: "field wide" }, el("span", {}, t("search")), controls.words),
      field("state", controls.state),
      !fixed.dag_id && field("dag", controls.dag),
      field("from", controls.from), field("to", controls.to), clear),
    empty, grid, more);
  near.observe(more);
}

function filter(values) {
  for (const [name, control] of Object.entries(controls)) {
    filters[name] = values[name] ?? "";
    control.value = filters[name];
  }
  remember();
  start();
}

const isFiltered = () => Object.values(filters).some((value) => value.trim());

// Who comes back to the page finds it as it was.
function remember() {
  const { state, dag, words, from, to } = filters;
  const all = Object.entries({ ...fixed, state, dag, q: words, from, to }).filter(([, value]) => value);
  const search = all.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
  history.replaceState(null, "", search ? `?${search}` : location.pathname);
}

function fail(error) {
  generation += 1;
  queue.clear();
  main.replaceChildren(failure(error, () => { build(); start(); }));
}

let drawn = 0;

function draw() {
  drawn ||= requestAnimationFrame(() => {
    drawn = 0;
    render();
  });
}

function render() {
  if (!grid.isConnected) return;
  clear.hidden = !isFiltered();
  const keys = fitting();
  const isRead = known.size >= tasks.size && offset >= Math.min(total, BACKGROUND);
  const counted = t("found", { n: filters.words.trim() || filters.state === "paid" ? keys.length : total });
  count.setAttribute("aria-busy", !isRead); // a reader is told the final number
  if (count.textContent !== counted) count.textContent = counted;
  reading.textContent = isRead
    ? (offset < total ? t("of_newest", { n: tasks.size, total }) : "")
    : t("read", { n: known.size, total: Math.max(tasks.size, Math.min(total, BACKGROUND)) });
  drawTotals(keys);
  drawDags();
  drawCards(keys, isRead);
}

function drawTotals(keys) {
  const all = keys.map(factsOf);
  const sum = (of) => all.reduce((so_far, found) => so_far + (of(found) || 0), 0);
  const sums = {
    videos: sum((found) => found.videos),
    credits: sum((found) => found.credits),
    failed: sum((found) => found.status === "failed"),
    paid: sum((found) => found.paid),
  };
  for (const [name, value] of Object.entries(sums)) values[name].textContent = number(value);
  totals.lastChild.replaceWith(chart(keys.map((key) => tasks.get(key))));
}

function chart(all) {
  const days = byDay(all, DAYS);
  const most = Math.max(1, ...days.map((day) => day.ready + day.failed + day.rendering));
  const sum = (name) => days.reduce((so_far, day) => so_far + day[name], 0);
  const [width, height, gap] = [10, 40, 2];
  const bars = days.map((day, position) => {
    let top = height;
    const parts = ["ready", "rendering", "failed"].filter((name) => day[name]).map((name) => {
      const size = Math.max(1.5, (day[name] / most) * (height - 2));
      top -= size;
      return svg("rect", { class: name, x: position * width + gap / 2, y: top, width: width - gap, height: size, rx: 1 });
    });
    const title = svg("title");
    title.textContent = t("chart_day", { ...day, day: dayName(day.day) });
    const base = svg("rect", { class: "base", x: position * width, y: 0, width, height });
    const line = svg("rect", { class: "line", x: position * width + gap / 2, y: height - 1, width: width - gap, height: 1 });
    return svg("g", {}, title, base, line, ...parts);
  });
  const label = days.length
    ? t("chart", {
      from: dayName(days[0].day), to: dayName(days.at(-1).day),
      ready: sum("ready"), failed: sum("failed"), rendering: sum("rendering"),
    })
    : t("by_day");
  return el("figure", { id: "chart", class: "tile chart" },
    svg("svg", {
      viewBox: `0 0 ${Math.max(1, days.length) * width} ${height}`, preserveAspectRatio: "none", role: "img",
      "aria-label": label,
    }, ...bars),
    el("figcaption", { class: "muted" },
      el("span", {}, days.length ? dayName(days[0].day) : ""), el("span", {}, t("by_day")),
      el("span", {}, days.length ? dayName(days.at(-1).day) : "")));
}

function drawDags() {
  const listed = new Set([...controls.dag.options].map((option) => option.value));
  const missing = [...dags].filter((dag) => !listed.has(dag));
  if (!missing.length) return;
  const chosen = filters.dag;
  controls.dag.replaceChildren(...options({
    "": t("all_dags"), ...Object.fromEntries([...dags].sort().map((dag) => [dag, dag])),
  }));
  controls.dag.value = chosen;
}

function drawCards(keys, isRead) {
  const inGrid = keys.slice(0, shown);
  const nodes = inGrid.map((key) => cardOf(key));
  const now = [...grid.children];
  if (now.length !== nodes.length || nodes.some((node, position) => node !== now[position])) {
    // Only what differs is moved, so that nothing that plays or has the focus is torn out.
    const kept = new Set(nodes);
    now.filter((node) => !kept.has(node)).forEach((node) => node.remove());
    nodes.forEach((node, position) => {
      if (grid.children[position] !== node) grid.insertBefore(node, grid.children[position] ?? null);
    });
  }
  more.hidden = shown >= keys.length && (offset >= total || offset === 0);
  const kind = filters.state === "paid" ? "none_paid" : isFiltered() ? "none_match" : "none";
  const isEmpty = !keys.length && isRead && !loading && (total === 0 || isFiltered());
  if (!isEmpty) empty.replaceChildren();
  else if (empty.firstChild?.dataset.notice !== kind) empty.replaceChildren(notice(kind, "film", { heading: "h2" }));
  totals.hidden = isEmpty && !isFiltered();
}

function cardOf(key) {
  const found = factsOf(key);
  let card = cards.get(key);
  if (!card) {
    const { task } = found;
    // These stay whatever is learnt of the task: a click between two looks is not lost, nor is the focus.
    card = el("li", { class: "card", "data-key": key },
      el("a", { class: "watch", href: videoHref(task) }),
      el("div", { class: "badges" }),
      el("p", { class: "facts" }),
      outLink(taskHref(task), { attributes: { class: "task", title: task.run_id } }));
    card.key = key;
    cards.set(key, card);
    near.observe(card);
  }
  if (card.found !== found) {
    card.found = found;
    fill(card, found);
  }
  return card;
}

function fill(card, found) {
  const { task } = found;
  const prompt = found.prompt ?? (known.has(card.key) ? t("no_prompt") : "…");
  const name = `${task.task_id}${task.map_index >= 0 ? ` [${task.label ?? task.map_index}]` : ""}`;
  card.dataset.status = found.paid ? "paid" : found.status;
  const old = card.querySelector("video");
  const keeps = old && card.sources === found.sources.join();
  const media = keeps ? old.parentElement : el("div", { class: "media" }, ...standIn(found));
  card.sources = found.sources.join();
  if (old && !keeps) release(old);
  const facts = [
    found.items || isBatch(task)
      ? found.completed !== undefined && found.status !== "rendering"
        ? t("batch", { done: found.completed, total: found.total ?? 0 })
        : found.total !== undefined && t("batch_open", { total: found.total })
      : undefined,
    found.credits !== undefined && t("credits_n", { n: found.credits }),
    found.resolution,
    found.duration !== undefined && t("length", { n: found.duration }),
  ].filter(Boolean);
  const [watch, badges, line, out] = card.children;
  watch.title = prompt;
  watch.replaceChildren(media, el("span", { class: "prompt" }, prompt));
  badges.replaceChildren(badge(found.status), ...(found.paid ? [badge("paid")] : []));
  line.replaceChildren(...facts.map((fact) => el("span", {}, fact)),
    el("time", { datetime: task.start }, task.start ? moment(task.start) : ""));
  out.textContent = t("task_link", { dag: task.dag_id, task: name });
  if (visible.has(card.key)) attach(card);
}

// What stands in for a picture.
function standIn(found) {
  if (found.status === "rendering") {
    const since = found.task.start ? (Date.now() - Date.parse(found.task.start)) / 1000 : undefined;
    const told = found.progress !== undefined ? t("percent", { n: found.progress })
      : since === undefined ? t("rendering")
        : [t("since", { time: span(since) }), since < USUAL_SECONDS && t("usual")].filter(Boolean).join(", ");
    return [el("div", { class: "waiting" }, el("span", {}, told), bar(found.progress))];
  }
  return [icon({ failed: "failed", waiting: "clock", submitted: "clock" }[found.status] ?? "film")];
}

// Videos are there only near the screen.

const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (target === more) {
      if (isIntersecting) extend();
    } else if (isIntersecting) {
      visible.add(target.key);
      attach(target);
    } else {
      visible.delete(target.key);
      detach(target);
    }
  }
}, { rootMargin: "300px 0px" });

function attach(card) {
  const media = card.querySelector(".media");
  if (!media || !card.found.sources.length || card.found.status === "rendering" || media.querySelector("video")) return;
  const made = video(card.found.sources, { tabindex: -1, "aria-hidden": true }, () => {
    media.replaceChildren(el("span", { class: "expired" }, t("expired")));
  });
  media.replaceChildren(made, icon("play"));
}

function detach(card) {
  const made = card.querySelector("video");
  if (!made) return;
  release(made);
  card.querySelector(".media").replaceChildren(...standIn(card.found));
}

async function extend() {
  if (more.hidden || loading) return;
  shown += STEP;
  if (shown > fitting().length && offset >= Math.min(total, BACKGROUND) && offset < total) {
    try {
      await nextPage();
    } catch (error) {
      fail(error);
    }
  }
  draw();
  // A button that is still in sight after that is asked for no second time.
  near.unobserve(more);
  near.observe(more);
}

document.title = t("title");
build();
start();
setTimeout(look, LOOK_SECONDS * 1000);
