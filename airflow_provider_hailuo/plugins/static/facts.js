// Facts: from a task instance and its XComs to what is shown. Pure functions, no page and no network.

const ENDED_WELL = new Set(["success"]);
const ENDED_ILL = new Set(["failed", "upstream_failed", "removed", "skipped"]);

// The states of task instances behind each state of a video, as the REST API filters them.
export const TASK_STATES = {
  ready: ["success"],
  rendering: ["deferred", "running", "queued", "scheduled", "up_for_retry", "up_for_reschedule", "restarting"],
  failed: ["failed", "upstream_failed"],
  paid: ["failed", "upstream_failed"],
};

export const USUAL_SECONDS = 180;

// What the API renders where nothing else is asked for.
const RESOLUTION = "768p";
const DURATION = 6;

export const isBatch = (task) => task.operator === "HailuoGenerateBatchOperator";
export const isActive = (task) => !ENDED_WELL.has(task.state) && !ENDED_ILL.has(task.state);

// A task that ended sooner has hardly waited for a render.
const SHORT_SECONDS = 10;

// Which XComs to read of a task, of those that are there; undefined where somebody has to look which these are.
export function wanted(task, there) {
  if (!there) {
    const isSure = !isBatch(task) && ENDED_WELL.has(task.state) && seconds(task.start, task.end) >= SHORT_SECONDS;
    return isSure ? ["job"] : undefined;
  }
  const one = there.has("job") ? ["job"] : there.has("job_id") ? ["job_id", "progress"] : [];
  const batch = there.has("items") ? ["summary", "items"] : ["summary", there.has("summary") && "return_value"];
  return [...one, ...(one.length ? [] : batch)].filter((key) => there.has(key));
}

const object = (value) => (value && typeof value === "object" && !Array.isArray(value) ? value : undefined);
const list = (value) => (Array.isArray(value) ? value.filter(object) : undefined);
const text = (value) => (typeof value === "string" && value.trim() && value !== "None" ? value : undefined);
const number = (value) => (value === null || value === "" || !Number.isFinite(Number(value)) ? undefined : Number(value));

// What may be played or linked to: nothing but http(s).
export function webUrl(value) {
  try {
    const url = new URL(value);
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : undefined;
  } catch {
    return undefined;
  }
}

const seconds = (from, to) => {
  const found = (Date.parse(to) - Date.parse(from)) / 1000;
  return found >= 0 ? found : undefined;
};

const isDead = (status) => status === "FAILED" || status === "CANCELLED";

// A video: of the XCom `job`, or of an item of a batch.
function ofJob(job, rendered = {}) {
  const isAsked = text(rendered.model) !== undefined; // else what was not asked for is not known
  return {
    id: text(job.id) ?? text(job.job_id),
    jobStatus: text(job.status),
    sources: [...new Set([webUrl(job.uri), webUrl(job.url)].filter(Boolean))],
    uri: text(job.uri),
    prompt: text(job.prompt) ?? text(rendered.prompt),
    model: text(job.model) ?? text(rendered.model),
    resolution: text(job.resolution) ?? text(rendered.resolution) ?? (isAsked ? RESOLUTION : undefined),
    duration: number(job.duration ?? text(String(rendered.duration ?? "")) ?? (isAsked ? DURATION : undefined)),
    credits: number(job.credits ?? undefined),
    seconds: seconds(job.created, job.completed),
    bytes: number(job.bytes ?? undefined),
    error: text(job.error),
  };
}

// status: ready, rendering, waiting, submitted, failed, skipped, empty; paid: whether it was paid for and not delivered.
// Without XComs, which are not read yet or not this user's to read, it is what the task instance tells.
export function describe(task, told) {
  const xcoms = told ?? {};
  if (isBatch(task) || (!object(xcoms.job) && (object(xcoms.summary) || list(xcoms.items)))) return batch(task, xcoms);
  const job = object(xcoms.job);
  const progress = object(xcoms.progress);
  // What a custom XCom backend keeps is a reference here.
  const isElsewhere = !job && xcoms.job !== undefined && xcoms.job !== null;
  const isDelivered = Boolean(job) || isElsewhere || !told;
  const found = ofJob(job ?? { id: xcoms.job_id }, task.rendered);
  const isPaid = found.jobStatus === "COMPLETED" || (!job && Boolean(found.id));
  const ill = ENDED_ILL.has(task.state);
  return {
    ...found,
    task,
    status: isActive(task) ? (found.id ? "rendering" : "waiting")
      : !ill ? (isDelivered ? "ready" : found.id ? "submitted" : "empty")
        : task.state === "skipped" && !found.id ? "skipped" : "failed",
    progress: job && !isDead(found.jobStatus) ? 100 : number(progress?.progress),
    paid: ill && isPaid,
    refunded: ill && isDead(found.jobStatus),
    elsewhere: isElsewhere,
    videos: task.state === "success" && isDelivered ? 1 : 0,
  };
}

function batch(task, xcoms) {
  const summary = object(xcoms.summary) ?? {};
  const told = list(xcoms.items) ?? list(xcoms.return_value) ?? [];
  const requests = Array.isArray(task.rendered.requests) ? task.rendered.requests : [];
  const ill = ENDED_ILL.has(task.state);
  const items = told.map((entry, position) => {
    const index = number(entry.index) ?? position;
    const request = requests[index];
    const found = ofJob(entry, { ...task.rendered, ...(object(request) ?? { prompt: request }) });
    const hasVideo = found.jobStatus === "COMPLETED";
    return {
      ...found,
      task,
      index,
      status: entry.error ? "failed" : hasVideo ? "ready" : found.id ? "submitted" : "failed",
      paid: Boolean(found.id) && !isDead(found.jobStatus) && (ill || Boolean(entry.error)),
      refunded: isDead(found.jobStatus),
      videos: hasVideo && !entry.error ? 1 : 0,
    };
  });
  const first = items.find((item) => item.status === "ready") ?? items[0];
  const prompts = items.map((item) => item.prompt).filter(Boolean);
  const completed = number(summary.completed) ?? (items.length ? items.filter((item) => item.videos).length : undefined);
  const expected = number(summary.items) ?? (items.length || requests.length || undefined);
  return {
    task,
    items,
    sources: first?.sources ?? [],
    prompt: first?.prompt ?? text(requests[0]?.prompt ?? requests[0]),
    prompts: prompts.length ? prompts : requests.map((request) => text(request?.prompt ?? request)).filter(Boolean),
    total: expected,
    completed,
    failed: number(summary.failed) ?? 0,
    refused: number(summary.refused) ?? 0,
    credits: number(summary.credits),
    uri: text(summary.manifest),
    status: isActive(task) ? "rendering" : ill ? (task.state === "skipped" ? "skipped" : "failed") : "ready",
    paid: ill && (items.length ? items.some((item) => item.paid) : completed > 0),
    videos: completed ?? 0,
  };
}

export function matches(found, words) {
  const all = [found.prompt, ...(found.prompts ?? []), ...(found.items ?? []).map((item) => item.id), found.id];
  const hay = all.filter(Boolean).join("\n").toLocaleLowerCase();
  return words.toLocaleLowerCase().split(/\s+/).every((word) => hay.includes(word));
}

// Whether a task is "failed" and so on by what Airflow tells of it alone: enough for days and counts.
export function outcome(task) {
  return ENDED_WELL.has(task.state) ? "ready" : ENDED_ILL.has(task.state) ? "failed" : "rendering";
}

const day = (moment) => {
  const at = new Date(moment);
  const two = (value) => String(value).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
};

// The last days of the tasks, the oldest first, without gaps: [{day, ready, rendering, failed}].
export function byDay(tasks, most, now = new Date()) {
  const counts = new Map();
  for (const task of tasks) {
    const key = day(task.start ?? now);
    if (!counts.has(key)) counts.set(key, { day: key, ready: 0, rendering: 0, failed: 0 });
    counts.get(key)[outcome(task)] += 1;
  }
  if (!counts.size) return [];
  const keys = [...counts.keys()].sort();
  const days = [];
  const at = new Date(`${keys.at(-1)}T12:00:00`);
  while (days.length < most) {
    const key = day(at);
    days.unshift(counts.get(key) ?? { day: key, ready: 0, rendering: 0, failed: 0 });
    if (key <= keys[0] && days.length >= Math.min(most, 14)) break;
    at.setDate(at.getDate() - 1);
  }
  return days;
}
