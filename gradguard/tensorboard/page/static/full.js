// One chart over the whole page, and back.

const ICON = "M2 2h5v2H4v3H2zM13 2h5v5h-2V4h-3zM2 13h2v3h3v2H2zM16 13h2v5h-5v-2h3z";

let redraw = () => {};

export function listen(draw) {
  redraw = draw;
}

export const fullScreen = {
  name: "full",
  title: "Full screen (Esc leaves it)",
  icon: { width: 20, height: 20, path: ICON },
  click: (panel) => toggle(panel),
};

export function toggle(panel) {
  const isFull = panel.classList.contains("full");
  leave();
  panel.classList.toggle("full", !isFull);
  redraw();
}

// Whether there was anything to leave.
export function leave() {
  const panel = document.querySelector(".full");
  panel?.classList.remove("full");
  return panel !== null;
}

export const heightOf = (panel, usual) =>
  (panel.classList.contains("full") ? window.innerHeight - 16 : usual);
