// Asks /status once a second and shows what it says. All of it goes in as text, never as markup.

import { Picture } from "./gate.js";
import { jobs } from "./jobs.js";
import { element, fill, list, put } from "./put.js";
import { bytes, count, duration, plural, short, time } from "./text.js";

const EVERY = 1000; // ms between questions while somebody looks and the daemon answers
const SELDOM = 15000; // the most, where the page is hidden or there is no answer
const PATIENCE = 5000; // ms for one answer
const MOST_PARTITIONS = 100;

const STATES = {
  starting: ["Starting", ""],
  running: ["Running", ""],
  waiting: ["Waiting", ""],
  outage: ["Outage", "Nothing is lost: the batches are kept and go again."],
  halted: ["Halted", "It goes on when somebody has looked into it and sends SIGHUP."],
  draining: ["Stopping", "What is open is delivered and committed."],
};

const ERRORS = {
  status: "The API answered with an error",
  throttled: "The API asked for fewer requests",
  timeout: "The API did not answer in time",
  connection: "The API could not be reached",
  unknown: "The API's answer could not be understood, so the same batch goes again",
};

const CLOSED_BY = {
  records: "count", bytes: "size", age: "age", align: "alignment", drain: "stop",
  plan: "recovery",
};

const LIMITS = {
  max_in_flight: ["Batches in flight", count],
  memory: ["Memory", bytes],
  ...Object.fromEntries(["requests", "records", "bytes", "tokens"].flatMap((what) =>
    ["second", "minute", "hour", "day"].map((unit) => [`${what}_per_${unit}`,
      [`${what[0].toUpperCase()}${what.slice(1)} per ${unit}`, what === "bytes" ? bytes : count]]),
  )),
};

const $ = (id) => document.getElementById(id);
const picture = new Picture($("gate"));
let shown = null; // the last answer, with when it came
let failures = 0;
let paused = false;
let asking = false;
let timer = 0;

function banner(state, name, reason) {
  document.body.dataset.state = state;
  put($("state"), name);
  put($("reason"), reason);
}

function glance(s, rate) {
  const known = s.partitions.map((p) => p.lag).filter((lag) => lag != null);
  const lag = known.length ? known.reduce((a, b) => a + b, 0) : null;
  put($("lag"), short(lag));
  const left = s.catch_up_seconds;
  put($("lag-note"), lag === 0 ? "records: all is delivered" : left == null && lag != null
    ? "records behind, and growing" : left > 0 ? `records behind, done in about ${duration(left)}`
    : "records behind the end of the log");
  const last = s.recent_batches.find((b) => b.delay_seconds != null);
  // While nothing gets through, the delay grows with what waits here longest.
  const delay = last ? Math.max(last.delay_seconds, s.waiting_seconds) : s.waiting_seconds || null;
  put($("delay"), duration(delay));
  put($("delay-note"), last && delay === last.delay_seconds
    ? "of the oldest record in the last batch" : delay ? "and growing: not delivered yet" : "");
  const now = new Date(s.now);
  const behind = s.partitions.filter((p) => p.lag !== 0 && p.visible_until);
  const until = (behind.length ? behind : s.partitions).map((p) => p.visible_until).filter(Boolean).sort();
  const at = behind.length ? until[0] : until.at(-1);
  const day = at && new Date(at).toDateString() !== now.toDateString();
  put($("visible"), day ? time(at, now).split(" ")[0] : time(at, now));
  put($("visible-note"), !at ? "nothing has been delivered yet"
    : `newest record, ${duration(Math.max(0, (now - new Date(at)) / 1000))} ago`);
  put($("rate"), rate == null ? "–" : short(rate < 10 ? Math.round(rate * 10) / 10 : Math.round(rate)));
  document.title = `${STATES[s.state]?.[0] ?? s.state}, lag ${short(lag)}, ${s.pipeline}`;
}

function schedule({ active, align, open, changes_at: at }, now) {
  const until = at ? ` until ${time(at, new Date(now))}` : "";
  const parts = [align && `Windows close at every ${align}.`,
    active && `Released ${active}: ${open ? "open" : "closed, what comes waits in Kafka"}${until}.`];
  $("schedule").hidden = !active && !align;
  put($("schedule"), parts.filter(Boolean).join(" "));
}

function recovering({ forming, formed }, flights) {
  const again = flights.filter((f) => f.closed_by === "plan").length;
  const left = forming + formed + again;
  $("recovering").hidden = !left;
  put($("recovering"), left ? `${plural(left, "planned batch", "planned batches")} of the run before `
    + `${left === 1 ? "is" : "are"} being recovered: ${forming} read again, ${formed} ready, `
    + `${again} in flight.` : "");
}

function batches(s) {
  const now = new Date(s.now);
  const kinds = { delivered: "good", partial: "warn", rejected: "bad" };
  fill($("batches"), s.recent_batches.map((b) => [
    [time(b.at, now)], [count(b.records), "number"], [bytes(b.bytes), "number"],
    [duration(b.seconds), "number"], [CLOSED_BY[b.closed_by] ?? b.closed_by],
    [b.outcome, kinds[b.outcome] ?? ""],
    [count(b.attempts), b.attempts > 1 ? "number warn" : "number"],
    [duration(b.delay_seconds), "number"], [b.batch, "id"],
  ]), "no batch has been delivered yet", 9);
}

function partitions(s) {
  const now = new Date(s.now);
  const most = s.partitions.slice()
    .sort((a, b) => b.stopped - a.stopped || (b.lag ?? 0) - (a.lag ?? 0)).slice(0, MOST_PARTITIONS);
  fill($("partitions"), most.map((p) => {
    const name = `${p.topic}/${p.partition}`;
    return [
      [name, "name", name],
      p.stopped ? ["stopped: damaged log", "number bad"] : [count(p.lag), "number"],
      [time(p.visible_until, now)], [duration(p.delay_seconds), "number"], [count(p.checkpoint), "number"],
      [count(p.position), "number"], [count(p.end), "number"],
    ];
  }), "no partitions are assigned", 7, true);
  const more = s.partitions.length - most.length;
  put($("more-partitions"), more ? `and ${count(more)} more with no greater lag` : "");
}

function errors(s) {
  const now = new Date(s.now);
  const items = s.recent_errors.length ? s.recent_errors : [null];
  const make = () => element("li", element("b"), element("q"), element("span"));
  list($("errors"), items, make, (li, error) => {
    const [what, words, when] = li.children;
    put(what, error ? ERRORS[error.reason] ?? error.reason : "", "");
    put(words, error ? error.text : "");
    put(when, !error ? "none since the start" : error.times > 1
      ? `${plural(error.times, "time")} in a row, the last at ${time(error.at, now)}` : `at ${time(error.at, now)}`);
    what.hidden = words.hidden = !error;
  });
}

function limits(s) {
  const make = () => {
    const label = element("label", element("span"), element("span"));
    const meter = element("meter");
    meter.min = 0;
    return element("li", label, meter);
  };
  list($("limits"), s.limits, make, (li, { name, limit, used }) => {
    const [label, meter] = li.children, [says, format] = LIMITS[name] ?? [name, count];
    label.htmlFor = meter.id = `limit-${name}`;
    put(label.children[0], says);
    put(label.children[1], `${format(used)} of ${format(limit)}`);
    meter.max = limit;
    meter.value = used;
  });
}

function totals(s) {
  const make = () => element("div", element("dt"), element("dd"));
  list($("totals"), Object.entries(s.totals), make, (div, [name, value]) => {
    put(div.children[0], name.replaceAll("_", "-"));
    put(div.children[1], count(value));
  });
}

function moves(s, before) {
  const was = new Map(before?.partitions.map((p) => [`${p.topic}/${p.partition}`, p.position]));
  const moved = s.partitions.map((p) => [`${p.topic}/${p.partition}`, p.position])
    .filter(([name, position]) => was.has(name) && was.get(name) !== position);
  return {
    consumed: !!before && s.totals.consumed > before.totals.consumed,
    delivered: !!before && s.totals.delivered > before.totals.delivered,
    partitions: new Set(moved.map(([name]) => name)),
  };
}

/** Records a second over the last ten seconds or so: batches come in steps. */
const samples = [];
function throughput(s) {
  const now = Date.parse(s.now), delivered = s.totals.delivered;
  if (samples.length && delivered < samples.at(-1)[1]) samples.length = 0; // it was restarted
  samples.push([now, delivered]);
  while (samples.length > 2 && now - samples[1][0] >= 10000) samples.shift();
  const [since, first] = samples[0];
  return now > since ? (delivered - first) * 1000 / (now - since) : null;
}

function show(status) {
  const [name, comfort] = STATES[status.state] ?? [status.state, ""];
  const reason = status.reason ? `${status.reason}. `.replace(/([.!?])\. $/, "$1 ") : "";
  put($("pipeline"), status.pipeline);
  put($("version"), status.version);
  banner(status.state, name, (reason + comfort).trim());
  glance(status, throughput(status));
  schedule(status.schedule, status.now);
  recovering(status.recovering, status.in_flight);
  jobs(status.jobs);
  const moving = moves(status, shown?.status);
  picture.draw(status, moving);
  batches(status);
  partitions(status);
  errors(status);
  limits(status);
  totals(status);
  shown = { status, moving, at: Date.now() };
  delete document.body.dataset.stale;
}

function unreachable(why) {
  document.body.dataset.stale = "";
  document.title = `No answer, ${shown?.status.pipeline ?? "sluiced"}`;
  banner("unreachable", "No answer", `The daemon does not answer here: ${why}. `
    + (shown ? "What stands below is old." : "It may have been stopped."));
}

function why(error) {
  if (error.name === "TimeoutError") return "nothing came in time";
  return error.name === "TypeError" ? "no connection" : error.message;
}

async function ask() {
  const answer = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  if (!answer.ok) throw new Error(`its answer was ${answer.status}`);
  return answer.json();
}

async function turn() {
  clearTimeout(timer);
  if (asking || paused) return;
  asking = true;
  const [status, error] = await ask().then((body) => [body, null], (reason) => [null, reason]);
  asking = false;
  if (paused) return; // what is shown stands still
  failures = error ? failures + 1 : 0;
  const pause = document.hidden ? SELDOM : Math.min(SELDOM, EVERY * 2 ** Math.min(failures, 5));
  timer = setTimeout(turn, pause);
  if (error) unreachable(why(error));
  else show(status);
  told();
}

function told() {
  const at = shown && new Date(shown.at).toLocaleTimeString("en-GB");
  put($("updated"), `${paused ? "paused, " : ""}${at ? `as of ${at}` : "no answer yet"}`);
}

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  told();
  turn();
});
document.addEventListener("visibilitychange", () => document.hidden || turn());
addEventListener("resize", () => shown && picture.draw(shown.status, shown.moving));
turn();
