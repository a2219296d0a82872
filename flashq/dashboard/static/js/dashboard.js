// The dashboard: shows what /ws/dashboard says, and carries out what is clicked.

import { ask, follow, quoted, token } from "./api.js";
import { draw } from "./charts.js";
import { byId, cell, element, fill, number, shorten } from "./elements.js";

const QUEUES_SHOWN = 200;
const LETTERS_SHOWN = 50;
const TILES = [
  ["Waiting", (figures) => figures.stats.queued],
  ["Delayed", (figures) => figures.stats.delayed],
  ["Active", (figures) => figures.stats.processing],
  ["Dead letters", (figures) => figures.stats.dlq],
  ["Completed", (figures) => figures.metrics.total_completed],
  ["Cancelled", (figures) => figures.metrics.total_cancelled],
  ["Jobs/s", (figures) => figures.metrics.jobs_per_second],
  ["Latency, ms", (figures) => figures.metrics.avg_latency_ms],
];

let latest = null;
let chosen = null;

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

/** Carry out what was clicked; say what went wrong. */
async function act(work) {
  try {
    notice("");
    await work();
  } catch (error) {
    notice(error.message);
  }
}

const button = (text, work, kind) =>
  element("button", { class: kind, onclick: () => act(work) }, text);

/** The queues on show: the fullest, which come every second, or those that were searched for. */
let searched = null;

async function search() {
  const wanted = byId("queue-filter").value;
  if (!wanted) {
    searched = null;
  } else {
    const query = `limit=${QUEUES_SHOWN}&search=${quoted(wanted)}`;
    const { data, total } = await ask("GET", `/queues?${query}`);
    if (byId("queue-filter").value !== wanted) return;
    searched = { queues: data, total: total ?? data.length };
  }
  if (latest) showQueues();
}

function showQueues() {
  const { queues, total } = searched ?? { queues: latest.queues, total: latest.queues_total };
  const shown = [...queues].sort((a, b) => a.name.localeCompare(b.name));
  const more = total - shown.length;
  byId("queues-note").textContent = more > 0
    ? `${number(total)}; ${searched ? "" : "the fullest "}${shown.length} are shown: filter by name`
    : number(total);
  const rows = shown.map((queue) => {
    const path = `/queues/${quoted(queue.name)}`;
    const limits = [
      queue.rate_limit !== null && `${queue.rate_limit}/s`,
      queue.concurrency_limit !== null && `${queue.concurrency_limit} at a time`,
    ].filter(Boolean);
    return element("tr", {},
      cell(queue.name),
      cell(number(queue.pending), "n"),
      cell(number(queue.processing), "n"),
      cell(number(queue.dlq), "n"),
      cell(limits.join(", ") || "none"),
      cell(queue.paused ? "paused" : "running"),
      element("td", { class: "actions" },
        queue.paused
          ? button("Resume", () => ask("POST", `${path}/resume`))
          : button("Pause", () => ask("POST", `${path}/pause`)),
        " ",
        button("Dead letters", () => chooseQueue(queue.name))));
  });
  fill(byId("queues"), rows, 7, "No queue has been used yet.");
}

async function chooseQueue(name) {
  chosen = name;
  const path = `/queues/${quoted(name)}/dlq`;
  const { data } = await ask("GET", `${path}?count=${LETTERS_SHOWN}`);
  byId("dlq-note").textContent = `${name}: the ${data.length} oldest`;
  byId("dlq-actions").hidden = !data.length;
  const rows = data.map((job) => element("tr", {},
    cell(job.id),
    cell(job.attempts, "n"),
    cell(job.error ?? "", "error"),
    element("td", {}, element("code", {}, shorten(job.data))),
    element("td", { class: "actions" }, button("Retry", async () => {
      await ask("POST", `${path}/retry?id=${job.id}`);
      await chooseQueue(name);
    }))));
  fill(byId("dlq"), rows, 5, "None.");
}

function showWorkers() {
  const rows = latest.workers.map((worker) => element("tr", {},
    cell(worker.name ?? worker.id),
    cell(worker.queues.join(", ")),
    cell(worker.concurrency, "n"),
    cell(number(worker.jobs_processed), "n"),
    cell(`${Math.max(0, Math.round((latest.timestamp - worker.last_heartbeat) / 1000))} s ago`)));
  fill(byId("workers"), rows, 5, "None.");
}

function showChart() {
  const history = latest.metrics_history;
  const top = draw(byId("chart"), history.map((point) => point.throughput));
  byId("chart-top").textContent = `top: ${number(top)}/s`;
  byId("chart-from").textContent = history.length
    ? `${Math.round((latest.timestamp - history[0].timestamp) / 1000)} s ago` : "";
}

function show(figures) {
  latest = figures;
  byId("tiles").replaceChildren(...TILES.map(([name, value]) =>
    element("div", { class: "tile" },
      element("b", {}, number(value(figures))), element("span", {}, name))));
  if (figures.missing_shards.length) {
    notice(`Shards that do not answer: ${figures.missing_shards.join(", ")}`);
  }
  if (!searched) showQueues();
  showWorkers();
  showChart();
}

function showLink(isUp) {
  byId("link").textContent = isUp ? "live" : "not connected";
  byId("link").className = `pill ${isUp ? "good" : "bad"}`;
}

async function showVersion() {
  const { data } = await ask("GET", "/settings");
  byId("version").textContent = `${data.version} · ${data.storage}`;
}

const feed = follow(show, showLink);
act(showVersion);
byId("token").value = token.get();
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(byId("token").value);
  feed.again();
  act(showVersion);
});
byId("queue-filter").addEventListener("input", () => act(search));
setInterval(() => searched && search().catch(() => {}), 2000);
byId("dlq-retry-all").addEventListener("click", () => act(async () => {
  await ask("POST", `/queues/${quoted(chosen)}/dlq/retry`);
  await chooseQueue(chosen);
}));
byId("dlq-purge").addEventListener("click", () => act(async () => {
  if (!confirm(`Remove all dead letters of ${chosen}?`)) return;
  await ask("DELETE", `/queues/${quoted(chosen)}/dlq`);
  await chooseQueue(chosen);
}));
byId("job-form").addEventListener("submit", (event) => {
  event.preventDefault();
  act(async () => {
    const { data } = await ask("GET", `/jobs/${quoted(byId("job-id").value)}`);
    byId("job").textContent = JSON.stringify(data, null, 2);
    byId("job").hidden = false;
  });
});
