// Draws what the node does, and goes on while the page is seen. Without it, the page has the chart as it was
// when it was loaded.
"use strict";
(() => {
  const EVERY = 2000;
  // Between two marks of the axis: there is no half job.
  const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];
  const box = document.getElementById("pulse");
  if (!box || typeof uPlot === "undefined") return;
  const figures = document.getElementById("pulse-now");
  const colour = (name) => () => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = (more) => ({ stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif", ...more });
  const line = (scale, name) => ({ scale, stroke: colour(name), width: 2, points: { show: false } });
  const upwards = (_, low, high) => [0, Math.max(1, high * 1.1)];
  const times = (_, values) => values.map((at) => new Date(at * 1000).toLocaleTimeString([], { hourCycle: "h23" }));
  const options = (width) => ({
    width, height: 180, legend: { show: false }, cursor: { show: false }, padding: [8, 4, 0, 4],
    scales: { x: { time: true }, jobs: { range: upwards }, tokens: { range: upwards } },
    axes: [axis({ space: 80, size: 28, values: times }), axis({ scale: "jobs", size: 34, incrs: WHOLE }), axis({ scale: "tokens", side: 1, size: 46, grid: { show: false } })],
    series: [{}, line("jobs", "--accent"), line("tokens", "--second")],
  });
  let plot = null;
  let timer = null;
  let asking = false;

  const show = ({ at, jobs, tokens, now }) => {
    figures.textContent = now;
    const data = [at, jobs, tokens];
    if (plot) { plot.setData(data); return; }
    box.replaceChildren();
    plot = new uPlot(options(box.clientWidth), data, box);
    new ResizeObserver(() => plot.setSize({ width: box.clientWidth, height: 180 })).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot.redraw(false));
  };
  const look = async () => {
    if (asking) return;
    asking = true;
    try {
      const answer = await fetch("/pulse");
      if (answer.ok) show(await answer.json());
      // The session is over: nothing comes any more.
      if (answer.status === 401) return;
    } catch { /* the node may be starting anew */ } finally { asking = false; }
    if (!document.hidden) timer = setTimeout(look, EVERY);
  };
  document.addEventListener("visibilitychange", () => {
    clearTimeout(timer);
    if (!document.hidden) look();
  });
  look();
})();
