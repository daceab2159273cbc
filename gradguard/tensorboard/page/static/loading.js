// The style and the chart library: loaded once; what failed is tried again by the next call.
import { silent } from "./data.js";
import { element } from "./elements.js";

const beside = (name) => new URL(name, import.meta.url);

export const style = untilLoaded(() => element("link", { rel: "stylesheet", href: beside("style.css") }));
export const plotly = untilLoaded(() => element("script", { src: beside("plotly.min.js") }));

function untilLoaded(make) {
  let loading = null;
  return () => (loading ??= loaded(make()).catch((error) => {
    loading = null;
    throw error;
  }));
}

function loaded(made) {
  return new Promise((resolve, reject) => {
    const failed = () => {
      made.remove();
      reject(silent());
    };
    Object.assign(made, { onload: resolve, onerror: failed });
    document.head.append(made);
  });
}
