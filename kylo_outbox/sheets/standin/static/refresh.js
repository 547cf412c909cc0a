// Shows what changed every two seconds, without moving the page under the reader.
"use strict";

async function refresh() {
  // Not while somebody reads closely, edits, or stands on a cell.
  if (document.hidden || String(document.getSelection()) || document.querySelector("td input:not([type=checkbox])")) return;
  const answer = await fetch(location.pathname, { headers: { accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
  const shown = document.querySelector("main");
  if (!fresh || fresh.innerHTML === shown.innerHTML) return;
  const places = [...shown.querySelectorAll(".grid")].map((grid) => [grid.scrollLeft, grid.scrollTop]);
  shown.replaceWith(fresh);
  fresh.querySelectorAll(".grid").forEach((grid, index) => {
    if (places[index]) grid.scrollTo(...places[index]);
  });
}

// The server may be away for a moment (a restart): the next turn tries again.
setInterval(() => refresh().catch(() => {}), 2000);
