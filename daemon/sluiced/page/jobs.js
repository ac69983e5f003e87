// The jobs that an API works on for hours: how many, how far, how old.

import { element, fill, put } from "./put.js";
import { count, duration, plural, short } from "./text.js";

const LATE = 24.5 * 3600; // seconds; APIs promise a day
const MOST = 12; // lines; the rest is told as a number

const STATES = { ended: "results are being written", waiting: "goes again" };

const $ = (id) => document.getElementById(id);

/** `found` is null where the sink makes no jobs. */
export function jobs(found) {
  $("jobs-section").hidden = !found;
  if (!found) return;
  const working = found.shown.filter((job) => job.state === "working");
  const total = working.reduce((sum, job) => sum + (job.total ?? 0), 0);
  const done = working.reduce((sum, job) => sum + (job.done ?? 0), 0);
  const others = [
    found.ended && `${count(found.ended)} being written`, found.waiting && `${count(found.waiting)} to go again`,
  ].filter(Boolean);
  put($("jobs-working"), count(found.working));
  put($("jobs-note"), others.length ? `and ${others.join(", ")}` : "and none waiting");
  put($("jobs-done"), total ? `${Math.floor(100 * done / total)} %` : "–");
  put($("jobs-done-note"), total
    ? `${short(done)} of ${short(total)}${found.more ? `, in the ${found.shown.length} oldest` : ""}` : "nothing is known yet");
  put($("jobs-oldest"), found.working ? duration(found.oldest_seconds) : "–");
  const late = found.oldest_seconds > LATE, silent = found.unseen_seconds > 3600;
  put($("jobs-oldest-note"), silent ? `nothing heard for ${duration(found.unseen_seconds)}`
    : late ? "longer than APIs promise" : found.working ? "since the API made it" : "nothing is at work",
  late || silent ? "bad" : "");
  $("jobs-panel").hidden = !found.shown.length;
  const shown = found.shown.slice(0, MOST);
  fill($("jobs"), shown.map((job) => [
    ["", "progress"],
    [job.total ? `${count(job.done)} of ${count(job.total)}` : "–", "number"],
    [STATES[job.state] ?? (job.status ?? job.state).replaceAll("_", " ")],
    [duration(job.age_seconds), job.age_seconds > LATE ? "number warn" : "number"],
    [count(job.attempt), job.attempt > 1 ? "number warn" : "number"],
    [partitions(job.partitions), "name", job.partitions.join(", ")],
    [job.job ?? "to be submitted", "id"],
  ]), "no jobs at the moment", 7);
  shown.forEach((job, n) => bar($("jobs").rows[n].cells[0], job));
  const more = found.more + found.shown.length - shown.length;
  put($("more-jobs"), more ? `and ${plural(more, "younger job")}` : "");
}

/** A meter in the cell: made once, and then only set. */
function bar(cell, { done, total, job }) {
  const meter = cell.firstElementChild ?? cell.appendChild(element("meter"));
  meter.ariaLabel = `progress of ${job ?? "what goes again"}`;
  meter.max = total || 1;
  meter.value = done ?? 0;
}

function partitions(names) {
  return names.length > 1 ? `${names[0]} and ${names.length - 1} more` : names[0] ?? "";
}
