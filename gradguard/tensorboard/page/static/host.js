// TensorBoard around the page: its reload button, its dark mode, its address bar.

const PLUGIN = "gradguard";
const LINK = `p.${PLUGIN}.view`;

// TensorBoard's own interface for plugins, spoken directly: messages of JSON over a port,
// each answered. It is called experimental, so the page also polls.
export function onReload(callback) {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = ({ data }) => {
    const { type, id, isReply } = JSON.parse(data);
    if (isReply) return;
    port1.postMessage(JSON.stringify({ type, id, payload: null, error: null, isReply: true }));
    if (type === "experimental.DataReloaded") callback();
  };
  window.parent.postMessage("experimental.bootstrap", "*", [port2]);
}

export function onDarkMode(callback) {
  const { body } = window.parent.document;
  const follow = () => document.body.classList.toggle("dark", body.classList.contains("dark-mode"));
  follow();
  new MutationObserver(() => {
    const before = document.body.classList.contains("dark");
    if (follow() !== before) callback();
  }).observe(body, { attributeFilter: ["class"] });
}

// The view lies in TensorBoard's address, in the form it gives to plugins' own data, so
// that a copied link shows the same.
export function readLink() {
  const parts = window.parent.location.hash.slice(1).split("&");
  const part = parts.find((text) => text.startsWith(`${LINK}=`));
  return new URLSearchParams(part ? decodeURIComponent(part.slice(LINK.length + 1)) : "");
}

export function writeLink(parameters) {
  const hash = `#${PLUGIN}&${LINK}=${encodeURIComponent(parameters)}`;
  window.parent.history.replaceState(window.parent.history.state, "", hash);
}
