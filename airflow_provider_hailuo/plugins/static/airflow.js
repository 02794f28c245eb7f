// Airflow: its REST API, with the user's own session, and links to its pages.

// The pages lie at <root>/hailuo/<page>, whatever path the root has.
export const ROOT = new URL("..", location.href);

export const OPERATORS = ["HailuoGenerateOperator", "HailuoGenerateBatchOperator", "_HailuoDecoratedOperator"];

const framed = window.parent !== window;

// A tab of a task, a run or a DAG has Airflow's own header above it.
export const inTab = framed && /\/dags\//.test(window.parent.location.pathname);

export class ApiError extends Error {
  constructor(status) {
    super(`HTTP ${status}`);
    this.status = status;
  }
}

export async function get(path, params = {}) {
  const url = new URL(`api/v2/${path}`, ROOT);
  for (const [name, value] of Object.entries(params)) {
    for (const one of [value].flat()) if (one !== undefined && one !== "") url.searchParams.append(name, one);
  }
  let response;
  try {
    response = await fetch(url, { headers: { Accept: "application/json" }, credentials: "same-origin" });
  } catch {
    throw new ApiError(0);
  }
  // Where nobody is signed in, a login page may answer in the API's place.
  if (response.redirected && !/\/api\/v2\//.test(response.url)) throw new ApiError(401);
  if (!response.ok) throw new ApiError(response.status);
  return response.json();
}

const segment = (...parts) => parts.map(encodeURIComponent).join("/");

const taskPath = (task) =>
  `dags/${segment(task.dag_id)}/dagRuns/${segment(task.run_id)}/taskInstances/${segment(task.task_id)}`;

const plain = (instance) => ({
  dag_id: instance.dag_id,
  run_id: instance.dag_run_id,
  task_id: instance.task_id,
  map_index: instance.map_index,
  name: instance.task_display_name || instance.task_id,
  label: instance.rendered_map_index,
  operator: instance.operator,
  state: instance.state,
  start: instance.start_date,
  end: instance.end_date,
  rendered: instance.rendered_fields || {},
});

export const keyOf = (task) => JSON.stringify([task.dag_id, task.run_id, task.task_id, task.map_index]);

// A page of our task instances, the newest first: {tasks, total}.
export async function listTasks({ dag_id = "~", run_id = "~", ...filters }, offset, limit) {
  const found = await get(`dags/${segment(dag_id)}/dagRuns/${segment(run_id)}/taskInstances`, {
    operator: OPERATORS, order_by: "-start_date", limit, offset, ...filters,
  });
  return { tasks: found.task_instances.map(plain), total: found.total_entries };
}

// Whether a cleared task knows what it has begun: Airflow keeps that from 3.3 on. In doubt it does not.
export async function remembers() {
  try {
    const [major, minor] = (await get("version")).version.split(".").map(Number);
    return major > 3 || (major === 3 && minor >= 3);
  } catch {
    return false;
  }
}

export async function getTask(task) {
  return plain(await get(`${taskPath(task)}${task.map_index >= 0 ? `/${task.map_index}` : ""}`));
}

export async function xcomKeys(task) {
  const found = await get(`${taskPath(task)}/xcomEntries`, { map_index: task.map_index, limit: 100 });
  return new Set(found.xcom_entries.map((entry) => entry.key));
}

// The value of an XCom, undefined if there is none. Older Airflows tell JSON as text.
export async function xcom(task, key) {
  let entry;
  try {
    entry = await get(`${taskPath(task)}/xcomEntries/${segment(key)}`, { map_index: task.map_index, deserialize: true });
  } catch (error) {
    if (error.status === 404) return undefined;
    throw error;
  }
  if (typeof entry.value !== "string") return entry.value;
  try {
    return JSON.parse(entry.value);
  } catch {
    return entry.value;
  }
}

// The query as Airflow's placeholders make it: 3.1 fills in "+" as it is, and an unmapped task has no map index.
export function query() {
  const pairs = location.search.slice(1).split("&").filter(Boolean).map((pair) => {
    const [name, ...rest] = pair.split("=");
    try {
      return [name, decodeURIComponent(rest.join("="))];
    } catch {
      return [name, rest.join("=")];
    }
  });
  const found = Object.fromEntries(pairs.filter(([, value]) => value && !/^\{[A-Z_]+\}$/.test(value)));
  found.map_index = /^\d+$/.test(found.map_index || "") ? Number(found.map_index) : -1;
  return found;
}

export const videoHref = (task, more = {}) => {
  const { dag_id, run_id, task_id, map_index } = task;
  const all = { dag_id, run_id, task_id, ...(map_index >= 0 ? { map_index } : {}), ...more };
  return `video?${Object.entries(all).map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&")}`;
};

export const dagHref = (task) => new URL(`dags/${segment(task.dag_id)}`, ROOT).href;
export const runHref = (task) => new URL(`dags/${segment(task.dag_id)}/runs/${segment(task.run_id)}`, ROOT).href;
export const taskHref = (task) =>
  `${runHref(task)}/tasks/${segment(task.task_id)}${task.map_index >= 0 ? `/mapped/${task.map_index}` : ""}`;

// Let a link lead out of the frame: Airflow's sandbox keeps a frame from opening or leaving anything by itself.
export function leadOut(link, { blank = false } = {}) {
  link.rel = "noopener noreferrer";
  if (blank) link.target = "_blank";
  if (!framed) return;
  link.addEventListener("click", (event) => {
    event.preventDefault();
    const outside = window.parent.document.createElement("a");
    outside.href = link.href;
    outside.rel = link.rel;
    if (link.hasAttribute("download")) outside.download = link.download;
    if (blank || event.ctrlKey || event.metaKey) outside.target = "_blank";
    window.parent.document.body.append(outside);
    outside.click();
    outside.remove();
  });
}
