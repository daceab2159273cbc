// One Tab stop for all buttons of a toolbar; the arrow keys go from one to the next.

export function roving(bar) {
  const buttons = [...bar.querySelectorAll("button")];
  const stop = buttons.find((button) => button.ariaCurrent === "true" || button.ariaPressed === "true") ?? buttons[0];
  for (const button of buttons) button.tabIndex = button === stop ? 0 : -1;
  bar.onkeydown = (event) => {
    const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = buttons.indexOf(document.activeElement);
    if (!way || at < 0) return;
    event.preventDefault();
    buttons[(at + way + buttons.length) % buttons.length].focus();
  };
}
