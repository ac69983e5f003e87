// Puts texts into the page, and leaves alone what has not changed.

export function put(element, text, kind) {
  // What has not changed is left alone: a live region would say it again, a selection would go.
  if (element.textContent !== text) element.textContent = text;
  if (kind !== undefined && element.className !== kind) element.className = kind;
}

/** Cells are [text, class, title]; the first of each row is its heading where `headed`. */
export function fill(body, rows, nothing, span, headed = false) {
  const wanted = rows.length ? rows : [[[nothing, "none"]]];
  while (body.rows.length > wanted.length) body.deleteRow(-1);
  wanted.forEach((cells, n) => {
    let row = body.rows[n];
    if (row && row.cells.length !== cells.length) row.replaceChildren();
    if (!row) row = body.insertRow();
    cells.forEach(([text, kind = "", title = ""], m) => {
      let cell = row.cells[m];
      if (!cell) {
        cell = document.createElement(headed && rows.length && m === 0 ? "th" : "td");
        if (cell.tagName === "TH") cell.scope = "row";
        row.append(cell);
      }
      cell.colSpan = rows.length ? 1 : span;
      put(cell, text, kind);
      if (cell.title !== title) cell.title = title;
    });
  });
}

/** Children of a list, one for each item; `make` builds an empty one and `set` puts an item in. */
export function list(parent, items, make, set) {
  while (parent.children.length > items.length) parent.lastElementChild.remove();
  items.forEach((item, n) => set(parent.children[n] ?? parent.appendChild(make()), item));
}

export function element(tag, ...children) {
  const made = document.createElement(tag);
  made.append(...children);
  return made;
}
