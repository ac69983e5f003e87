// Figures as people read them. Nothing here knows the page.

const DASH = "–";

export function count(n) {
  return n == null ? DASH : n.toLocaleString("en");
}

/** 1,234,567 as 1.23 M: what can be read from across the room. */
export function short(n) {
  if (n == null) return DASH;
  if (n < 100000) return count(n);
  const [by, unit] = n < 1e6 ? [1e3, "k"] : n < 1e9 ? [1e6, "M"] : [1e9, "G"];
  return `${(n / by).toPrecision(3)} ${unit}`;
}

export function bytes(n) {
  if (n == null) return DASH;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit += 1; }
  return `${unit && n < 100 ? n.toFixed(1) : Math.round(n)} ${units[unit]}`;
}

/** 0.012 as 12 ms, 7300 as 2 h 1 m. */
export function duration(s) {
  if (s == null) return DASH;
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 60) return `${s.toFixed(1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} m ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} m`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s % 86400 / 3600)} h`;
}

/** The time of day here, with the date where it is another day. */
export function time(text, now) {
  if (!text) return DASH;
  const at = new Date(text);
  const clock = at.toLocaleTimeString("en-GB");
  return at.toDateString() === now.toDateString() ? clock : `${at.toLocaleDateString("sv")} ${clock}`;
}

export function plural(n, word, words = `${word}s`) {
  return `${count(n)} ${n === 1 ? word : words}`;
}

/** A name cut in its middle, since the end of a topic's name tells as much as its beginning. */
export function cut(name, most) {
  if (name.length <= most) return name;
  const half = Math.floor((most - 1) / 2);
  return `${name.slice(0, most - 1 - half)}…${name.slice(-half)}`;
}
