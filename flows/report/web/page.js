"use strict";
// The curve can be read with a mouse, a finger or the arrow keys; without this script it is a picture with a table.
for (const figure of document.querySelectorAll("[data-readings]")) {
  const readings = JSON.parse(figure.dataset.readings);
  const chart = figure.querySelector(".chart");
  const fields = figure.querySelectorAll("[data-field]");
  let place = Number(figure.dataset.shown);

  const show = (index) => {
    place = Math.max(0, Math.min(readings.length - 1, index));
    const reading = readings[place];
    for (const field of fields) field.textContent = reading[field.dataset.field];
    for (const svg of chart.querySelectorAll("svg")) {
      const { left, right, top, bottom } = svg.dataset;
      const x = Number(left) + reading.x * (right - left);
      const cursor = svg.querySelector(".cursor");
      const dot = svg.querySelector(".dot");
      cursor.setAttribute("x1", x);
      cursor.setAttribute("x2", x);
      dot.setAttribute("cx", x);
      dot.setAttribute("cy", bottom - reading.y * (bottom - top));
      for (const mark of [cursor, dot]) mark.setAttribute("visibility", "visible");
    }
    chart.setAttribute("aria-valuenow", reading.radius);
    chart.setAttribute("aria-valuetext", `R ${reading.radius}: certified accuracy ${reading.accuracy}; ${reading.buys}`);
  };

  const point = (event) => {
    const svg = [...chart.querySelectorAll("svg")].find((one) => one.clientWidth > 0);
    const box = svg.getBoundingClientRect();
    const { left, right } = svg.dataset;
    const share = (((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width - left) / (right - left);
    const far = readings.map((reading) => Math.abs(reading.x - share));
    show(far.indexOf(Math.min(...far)));
  };

  const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 };
  const key = (event) => {
    if (event.key in steps) show(place + steps[event.key]);
    else if (event.key === "Home") show(0);
    else if (event.key === "End") show(readings.length - 1);
    else return;
    event.preventDefault();
  };

  const known = { role: "slider", tabindex: "0", "aria-label": "joint radius R", "aria-valuemin": "0" };
  for (const [name, value] of Object.entries(known)) chart.setAttribute(name, value);
  chart.setAttribute("aria-valuemax", readings.at(-1).radius);
  chart.addEventListener("pointermove", point);
  chart.addEventListener("pointerdown", point);
  chart.addEventListener("keydown", key);
  show(place);
}
