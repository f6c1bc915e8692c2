"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 40rem)");
  const drawn = new Set();

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Times are drawn as times of some day: axes of dates have round ticks (15 s, 5 min), axes of numbers have not.
  const day = Date.UTC(2000, 0, 1);
  const clocked = (table) => table.dataset.axis === "time" && table.dataset.begin >= 0 && table.dataset.end < 86400;
  const placed = (table) => (clocked(table) ? (at) => day + at * 1000 : (at) => at);

  // Labels of charts know some HTML; names come from the predictions and are none.
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

  // The table beneath a chart is where its numbers come from: what is drawn is what is written.
  function traces(table) {
    const place = placed(table);
    const gap = Number(table.dataset.gap);
    const heads = [...table.tHead.rows[0].cells].slice(1);
    const lines = heads.map((head) => ({
      type: "scatter",
      mode: "lines",
      name: escaped(head.textContent),
      x: [],
      y: [],
      line: {
        color: dark.matches ? head.dataset.dark : head.dataset.light,
        dash: { dash: "7px,3px", dot: "2px,3px" }[head.dataset.dash] ?? "solid",
        width: 2,
      },
      hovertemplate: "%{y:.3f}",
    }));
    let before = -Infinity;
    for (const row of table.tBodies[0].rows) {
      const begin = Number(row.cells[0].dataset.begin);
      const end = Number(row.cells[0].dataset.end);
      const apart = before > -Infinity && (begin - before > gap || begin < before);
      lines.forEach((line, number) => {
        const value = Number.parseFloat(row.cells[number + 1].textContent);
        if (apart) {
          line.x.push(null);
          line.y.push(null);
        }
        for (const at of begin === end ? [begin] : [begin, end]) {
          line.x.push(place(at));
          line.y.push(Number.isNaN(value) ? null : value);
        }
      });
      before = end;
    }
    // What is shorter than a line is wide would not be seen: a frame between two others without the face, a laugh.
    const short = 0.01 * (place(Number(table.dataset.end)) - place(Number(table.dataset.begin)));
    for (const line of lines) {
      const sizes = line.y.map(() => 0);
      let first = 0;
      line.y.concat(null).forEach((y, at) => {
        if (y !== null) return;
        if (at > first && line.x[at - 1] - line.x[first] < short) sizes.fill(6, first, at);
        first = at + 1;
      });
      if (sizes.includes(6)) {
        line.mode = "lines+markers";
        line.marker = { color: line.line.color, size: sizes, line: { width: 0 } };
      }
    }
    return lines;
  }

  function layout(table, lines) {
    const time = clocked(table);
    const [begin, end] = [Number(table.dataset.begin), Number(table.dataset.end)];
    const values = lines.flatMap((line) => line.y).filter((y) => y !== null);
    const high = values.reduce((most, y) => Math.max(most, y), 0.4);
    const low = values.reduce((least, y) => Math.min(least, y), 0);
    const grid = { gridcolor: colour("--line"), linecolor: colour("--line"), zeroline: false, automargin: true };
    const hours = end >= 3600;
    return {
      height: narrow.matches ? 240 : 300,
      margin: { l: 8, r: 12, t: 12, b: 8 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--soft") },
      showlegend: false,
      hovermode: "x unified",
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      // A finger that scrolls the page must not draw a frame.
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      xaxis: {
        ...grid,
        type: time ? "date" : "linear",
        range: [begin, end].map(placed(table)),
        tickformat: time ? (hours ? "%-H:%M:%S" : "%-M:%S") : ",d",
        tickformatstops: time ? [{ dtickrange: [null, 999], value: "%-M:%S.%1f" }] : [],
        hoverformat: time ? (hours ? "%-H:%M:%S" : "%-M:%S.%1f") : ",d",
        nticks: narrow.matches ? 5 : 10,
        title: {
          text: time ? "" : table.dataset.axis === "time" ? "seconds" : "characters of the text",
          font: { size: 11 },
        },
      },
      yaxis: { ...grid, range: [low === 0 ? 0 : low * 1.08, high * 1.08], fixedrange: true, tickformat: ".1f", nticks: 5 },
    };
  }

  function draw(plot) {
    const table = plot.closest("figure").querySelector("table.points");
    const lines = traces(table);
    drawn.add(plot);
    Plotly.react(plot, lines, layout(table, lines), { displayModeBar: false, responsive: true });
  }

  // Charts are drawn when they come near: a hundred at once would keep a phone busy for long.
  const near = new IntersectionObserver(
    (seen) => {
      for (const one of seen) {
        if (one.isIntersecting && !drawn.has(one.target)) draw(one.target);
      }
    },
    { rootMargin: "600px 0px" },
  );
  document.documentElement.classList.add("scripted");
  const plots = document.querySelectorAll(".plot");
  for (const plot of plots) near.observe(plot);
  addEventListener("beforeprint", () => plots.forEach((plot) => drawn.has(plot) || draw(plot)));
  for (const query of [dark, narrow]) query.addEventListener("change", () => drawn.forEach(draw));
})();
