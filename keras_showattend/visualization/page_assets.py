"""Style and script of the page of attention maps.

Colours of text and ground are the browser's own, so that light, dark and high-contrast modes work alike.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --quiet: color-mix(in srgb, CanvasText 65%, Canvas);
  --line: color-mix(in srgb, CanvasText 25%, Canvas);
}
* { box-sizing: border-box; }
body { margin: 0; font: 1rem/1.5 system-ui, sans-serif; color: CanvasText; background: Canvas; }
main { max-width: 68rem; margin: auto; padding: 1rem; }
h1 { margin: 0; font-size: 1.4rem; }
h2, h3 { margin: 0 0 .5rem; font-size: 1rem; overflow-wrap: anywhere; }
h3 { margin-top: 1rem; }
ul { margin: 0; padding-inline-start: 1.2rem; }
.help, .where, .score { color: var(--quiet); }
.help { margin: .25rem 0; }
.scale { display: flex; align-items: center; gap: .5rem; margin: .25rem 0; }
/* Grey as a photograph is under its map, or faint colours would look different in the two modes. */
.scale canvas { flex: 0 1 10rem; min-width: 0; height: .8rem; background: #999; }
.sample { display: flex; flex-wrap: wrap; gap: 1.25rem; align-items: flex-start; padding: 1rem 0; }
.sample { border-top: 1px solid var(--line); }
.picture { position: relative; flex: 1 1 18rem; max-width: 34rem; }
.picture img { display: block; width: 100%; height: auto; }
.picture canvas { position: absolute; inset: 0; width: 100%; height: 100%; pointer-events: none; }
.picture.mapped img { filter: grayscale(1) contrast(.75) brightness(.85); }
.text { flex: 1 1 20rem; min-width: 0; }
.caption { margin: 0 0 .75rem; font-size: 1.3rem; }
.word {
  font: inherit; color: inherit; background: none; cursor: pointer;
  border: 1px solid transparent; border-bottom-color: var(--line); border-radius: .3rem;
  padding: .1rem .3rem; max-width: 100%; overflow-wrap: anywhere;
}
.word.mapped { color: #fff; background: #0b5cad; }
.word[aria-pressed=true] { border-color: CanvasText; }
.word:focus-visible { outline: 3px solid #0b5cad; outline-offset: 2px; }
.where { min-height: 3em; margin: .5rem 0; }
fieldset { margin: 0; padding: .5rem .75rem; border: 1px solid var(--line); border-radius: .3rem; }
label { display: flex; gap: .5rem; align-items: baseline; padding: .15rem 0; cursor: pointer; }
.choice { flex: 1; min-width: 0; overflow-wrap: anywhere; }
.score { font-variant-numeric: tabular-nums; }
@media print {
  :root { color-scheme: only light; }
  .help, noscript, main:not(:has(.picture.mapped)) .scale { display: none; }
  .sample { break-inside: avoid; }
  .picture { max-width: 45%; }
  .picture *, .word { print-color-adjust: exact; }
  .word { border: 0; padding: 0 .1rem; }
}
"""

# The colours are dark where a weight is small and light where it is large, which a grey print keeps.
SCRIPT = """
"use strict";
const COLOURS = [[60, 20, 150], [190, 40, 130], [245, 130, 60], [250, 235, 80]];

// From a share of the largest weight, 0 to 1, to red, green, blue and opacity.
function colour(share) {
  const place = share * (COLOURS.length - 1);
  const low = Math.min(Math.floor(place), COLOURS.length - 2);
  const mixed = COLOURS[low].map((value, i) => value + (place - low) * (COLOURS[low + 1][i] - value));
  return [...mixed, 230 * share ** 0.7];
}

// Draws a map over all of the canvas; the browser fills in between the locations.
function draw(canvas, shares, rows, columns) {
  const map = new OffscreenCanvas(columns, rows), context = map.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  shares.forEach((share, i) => pixels.data.set(colour(share), 4 * i));
  context.putImageData(pixels, 0, 0);
  const target = canvas.getContext("2d");
  target.clearRect(0, 0, canvas.width, canvas.height);
  target.imageSmoothingQuality = "high";
  target.drawImage(map, 0, 0, canvas.width, canvas.height);
}

const scale = document.querySelector(".scale canvas");
draw(scale, Array.from({ length: 256 }, (_, i) => i / 255), 1, 256);

for (const sample of document.querySelectorAll(".sample")) {
  const picture = sample.querySelector(".picture"), canvas = picture.querySelector("canvas");
  const captions = [...sample.querySelectorAll(".caption")], words = sample.querySelectorAll(".word");
  let pinned = null;

  function show(word) {
    for (const other of words) {
      other.classList.toggle("mapped", other === word);
      other.setAttribute("aria-pressed", other === pinned);
    }
    picture.classList.toggle("mapped", word !== null);
    canvas.hidden = word === null;
    sample.querySelector(".where").textContent = word ? word.textContent + ": " + word.dataset.where : "";
    if (word) {
      const { rows, columns } = word.closest(".caption").dataset;
      draw(canvas, word.dataset.weights.split(" ").map((number) => number / 1000), +rows, +columns);
    }
  }

  function choose(rank) {
    captions.forEach((caption, i) => { caption.hidden = i !== rank; });
    picture.querySelector("img").alt = captions[rank].textContent.trim().replace(/\\s+/g, " ");
    pinned = null;
    show(null);
  }

  for (const name of ["pointerover", "focusin"]) {
    sample.addEventListener(name, (event) => { if (event.target.matches(".word")) show(event.target); });
  }
  for (const name of ["pointerout", "focusout"]) {
    sample.addEventListener(name, (event) => { if (event.target.matches(".word")) show(pinned); });
  }
  sample.addEventListener("click", (event) => {
    if (!event.target.matches(".word")) return;
    pinned = pinned === event.target ? null : event.target;
    show(pinned);
  });
  sample.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { pinned = null; show(null); }
  });
  sample.addEventListener("change", (event) => choose(+event.target.value));
  // A browser that comes back to the page may have kept another choice than the first.
  choose(+(sample.querySelector("input:checked")?.value ?? 0));
}
"""
