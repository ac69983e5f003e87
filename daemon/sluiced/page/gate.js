// The gate as a picture: stream, window, gate and API, from left to right or from top to bottom.

import { bytes, count, cut, duration, plural, short } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 250, HEIGHT = 250; // of a stage, in units of the picture
const GAP = 56;
const LANES = 6, SLOTS = 8; // that are drawn; the others are told as a number

/** How many stages stand beside each other on a picture of this many pixels. */
function columns(pixels) {
  return pixels >= 1000 ? 4 : pixels >= 560 ? 2 : 1;
}

export class Picture {
  /** Elements live as long as they are drawn under the same key, so that changes can be animated. */
  constructor(svg) {
    this.svg = svg;
    this.elements = new Map();
  }

  draw(status, moving) {
    this.unused = new Set(this.elements.keys());
    const across = columns(this.svg.clientWidth || 1200);
    const places = [0, 1, 2, 3].map((n) => ({
      x: GAP / 2 + (n % across) * (WIDTH + GAP),
      y: 16 + Math.floor(n / across) * (HEIGHT + GAP),
    }));
    const width = across * (WIDTH + GAP), height = 32 + (4 / across) * (HEIGHT + GAP) - GAP;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.pipe("pipe-1", places[0], places[1], moving.consumed);
    this.pipe("pipe-2", places[1], places[2], status.in_flight.length > 0);
    this.pipe("pipe-3", places[2], places[3], moving.delivered);
    this.stream(places[0], status.partitions, moving.partitions);
    this.window(places[1], status.window);
    this.gate(places[2], status);
    this.sink(places[3], status);
    for (const key of this.unused) {
      this.elements.get(key).remove();
      this.elements.delete(key);
    }
    const label = summary(status);
    if (this.svg.getAttribute("aria-label") !== label) this.svg.setAttribute("aria-label", label);
  }

  put(key, tag, attributes, text) {
    let element = this.elements.get(key);
    if (!element) {
      element = document.createElementNS(SVG, tag);
      this.elements.set(key, element);
      this.svg.append(element);
    }
    this.unused.delete(key);
    for (const [name, value] of Object.entries(attributes)) {
      if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
    }
    if (text !== undefined && element.textContent !== text) element.textContent = text;
    return element;
  }

  text(key, x, y, text, kind = "") {
    return this.put(key, "text", { x, y, class: kind }, text);
  }

  pipe(key, from, to, moving) {
    const beside = from.y === to.y;
    const [x1, y1] = beside ? [from.x + WIDTH + 12, from.y + 120] : [from.x + WIDTH / 2, from.y + HEIGHT + 14];
    const [x2, y2] = beside ? [to.x - 12, to.y + 120] : [to.x + WIDTH / 2, to.y - 14];
    const d = beside ? `M${x1} ${y1}H${x2}` : `M${x1} ${y1}V${(y1 + y2) / 2}H${x2}V${y2}`;
    this.put(`${key}-bed`, "path", { d, class: "bed" });
    this.put(key, "path", { d, class: `flow ${moving ? "moving" : "still"}` });
  }

  stream({ x, y }, partitions, moving) {
    this.text("stream", x, y + 14, plural(partitions.length, "partition"), "heading");
    if (!partitions.length) this.text("no-lane", x, y + 60, "none is assigned", "quiet");
    const shown = [...partitions]
      .sort((a, b) => b.stopped - a.stopped || (b.lag ?? -1) - (a.lag ?? -1))
      .slice(0, LANES);
    shown.sort((a, b) => a.topic < b.topic ? -1 : a.topic > b.topic ? 1 : a.partition - b.partition);
    shown.forEach((p, n) => {
      const name = `${p.topic}/${p.partition}`, top = y + 26 + n * 34;
      const flows = p.stopped ? "still" : moving.has(name) ? "moving" : "still";
      this.text(`lane-${n}`, x, top + 13, cut(name, 19), p.stopped ? "bad" : "");
      const lag = p.stopped ? "stopped" : p.lag == null ? "lag ?" : `lag ${short(p.lag)}`;
      this.text(`lane-lag-${n}`, x + WIDTH, top + 13, lag, p.stopped ? "bad end" : "end quiet");
      const d = `M${x + 6} ${top + 25}H${x + WIDTH - 6}`;
      this.put(`lane-bed-${n}`, "path", { d, class: "bed" });
      this.put(`lane-flow-${n}`, "path", { d, class: `flow ${flows}` });
    });
    const more = partitions.length - shown.length;
    if (more) this.text("lanes-more", x, y + HEIGHT - 4, `and ${count(more)} more`, "quiet");
  }

  window({ x, y }, w) {
    this.text("window", x, y + 14, "Window", "heading");
    const gauges = [
      ["count", w.records / w.max_records, short(w.records), `of ${short(w.max_records)}`],
      ["size", w.bytes / w.max_bytes, bytes(w.bytes), `of ${bytes(w.max_bytes)}`],
      ["age", w.age_seconds / w.max_age_seconds, duration(w.age_seconds), `of ${duration(w.max_age_seconds)}`],
    ];
    gauges.forEach(([name, part, value, limit], n) => {
      const left = x + n * 88, top = y + 34, high = 140;
      const full = high * Math.min(1, Math.max(0, part || 0));
      this.put(`${name}-tank`, "rect", { x: left, y: top, width: 74, height: high, rx: 3, class: "tank" });
      this.put(`${name}-water`, "rect", {
        x: left + 2, y: top + high - full, width: 70, height: full, class: "water fills",
      });
      this.put(`${name}-limit`, "path", { d: `M${left - 4} ${top}h82`, class: "limit" });
      this.text(`${name}-name`, left + 37, top + 160, name, "middle quiet");
      this.text(`${name}-value`, left + 37, top + 182, value, "middle medium");
      this.text(`${name}-of`, left + 37, top + 202, limit, "middle quiet");
    });
  }

  gate({ x, y }, status) {
    const slots = status.limits.find((limit) => limit.name === "max_in_flight");
    const flights = status.in_flight, total = Math.max(slots ? slots.limit : 0, flights.length);
    const shut = status.state === "outage" || status.state === "halted";
    this.text("gate", x, y + 14, `Gate: ${flights.length} of ${total} in flight`, "heading");
    this.put("post", "rect", { x, y: y + 30, width: 5, height: 186, class: "post" });
    this.put("post-2", "rect", { x: x + 19, y: y + 30, width: 5, height: 186, class: "post" });
    // Raised out of the way, or down to the bed.
    this.put("paddle", "rect", {
      x: x + 4, y: y + (shut ? 118 : 26), width: 16, height: 98, rx: 2,
      class: shut ? "paddle shut" : "paddle",
    });
    const shown = Math.min(total, SLOTS), rows = shown > 4 ? Math.ceil(shown / 2) : shown;
    const wide = shown > 4 ? 104 : 214, high = Math.min(44, 180 / Math.max(1, rows) - 6);
    for (let n = 0; n < shown; n += 1) {
      const left = x + 36 + Math.floor(n / rows) * 110, top = y + 34 + (n % rows) * (high + 6);
      const flight = flights[n];
      this.put(`slot-${n}`, "rect", {
        x: left, y: top, width: wide, height: high, rx: 4, class: flight ? "slot taken" : "slot",
      });
      this.text(`slot-text-${n}`, left + wide / 2, top + high / 2 + 5,
        flight ? inFlight(flight, wide > 200) : "free", flight ? "middle" : "middle quiet");
    }
    if (total > shown) this.text("slots-more", x + 36, y + 232, `and ${count(total - shown)} more`, "quiet end");
    const waiting = status.queued_batches + status.recovering.formed;
    const why = shut ? `held: ${status.state}` : status.schedule.open ? "open" : "outside its hours";
    const says = waiting ? `${why}, ${plural(waiting, "batch", "batches")} waiting` : why;
    this.text("gate-says", x, y + HEIGHT - 6, says, shut ? "bad" : "quiet");
  }

  sink({ x, y }, status) {
    const { delivered, dead_lettered: dead, skipped } = status.totals;
    this.text("sink", x, y + 14, "API", "heading");
    this.text("delivered", x, y + 52, "delivered", "quiet");
    this.text("delivered-count", x, y + 86, short(delivered), "big good");
    this.text("dead", x, y + 128, "dead-lettered", "quiet");
    this.text("dead-count", x, y + 162, short(dead), dead ? "big bad" : "big");
    this.text("skipped", x, y + 204, "skipped", "quiet");
    this.text("skipped-count", x, y + 226, short(skipped), "medium");
  }
}

function inFlight(flight, roomy) {
  const tries = flight.attempts > 1 ? `, try ${flight.attempts}` : "";
  const says = `${short(flight.records)}${roomy ? " records" : ""}, ${duration(flight.age_seconds)}`;
  return roomy ? says + tries : says;
}

function summary(s) {
  const w = s.window;
  return [
    `${plural(s.partitions.length, "partition")} in`,
    `window ${count(w.records)} of ${count(w.max_records)} records`,
    `${bytes(w.bytes)} of ${bytes(w.max_bytes)}`,
    `${duration(w.age_seconds)} of ${duration(w.max_age_seconds)} old`,
    `${plural(s.in_flight.length, "batch", "batches")} in flight`,
    `${count(s.totals.delivered)} delivered`,
    `${count(s.totals.dead_lettered)} dead-lettered`,
  ].join(", ");
}
