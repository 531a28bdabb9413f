"use strict";
(() => {
  const details = JSON.parse(document.getElementById("data").textContent);
  const table = document.getElementById("episodes");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const taskFilter = document.getElementById("task"), outcome = document.getElementById("outcome");
  const trouble = document.getElementById("trouble"), shown = document.getElementById("shown");

  const filter = () => {
    let count = 0;
    for (const row of rows) {
      const fits = (taskFilter.value === "" || row.dataset.tasknum === taskFilter.value)
        && (outcome.value === "" || row.dataset.outcome === outcome.value)
        && (!trouble.checked || row.dataset.problems !== "0");
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${rows.length} shown`;
  };
  for (const control of [taskFilter, outcome, trouble]) control.addEventListener("input", filter);
  filter();

  let sorted = { key: "index", up: true };
  const sort = (key, text) => {
    sorted = { key, up: sorted.key === key ? !sorted.up : true };
    const value = row => text ? row.dataset[key] : row.dataset[key] === "" ? -Infinity : Number(row.dataset[key]);
    const compare = text ? (a, b) => value(a).localeCompare(value(b)) : (a, b) => value(a) - value(b);
    rows.sort((a, b) => (sorted.up ? 1 : -1) * (compare(a, b) || Number(a.dataset.index) - Number(b.dataset.index)));
    body.append(...rows);
    for (const head of table.tHead.querySelectorAll("[data-key]"))
      head.parentElement.setAttribute("aria-sort", head.dataset.key !== key ? "none" : sorted.up ? "ascending" : "descending");
  };
  for (const head of table.tHead.querySelectorAll("[data-key]"))
    head.addEventListener("click", () => sort(head.dataset.key, head.dataset.text === "1"));

  const dialog = document.getElementById("detail");
  const part = name => dialog.querySelector(`[data-part="${name}"]`);
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const draw = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const number = value => value === null || value === undefined ? "–" : String(Number(value.toPrecision(4)));
  const nearest = (times, now) => {
    let low = 0, high = times.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (times[middle] <= now) low = middle; else high = middle - 1;
    }
    return low;
  };

  let open = null, movers = [], begin = 0, end = 1, now = 0, playing = false, last = 0;
  const slider = part("time"), button = part("play");

  const film = one => {
    const figure = make("figure"), canvas = make("canvas"), image = new Image();
    canvas.width = one.width; canvas.height = one.height;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `pictures of ${one.key}`);
    const paint = () => {
      if (!image.complete || !image.naturalWidth) return;
      canvas.getContext("2d").drawImage(image, nearest(one.time, now) * one.width, 0, one.width, one.height, 0, 0, one.width, one.height);
    };
    image.addEventListener("load", paint);
    image.src = one.src;
    figure.append(canvas, make("figcaption", "", one.key));
    movers.push(paint);
    return figure;
  };

  const strip = one => {
    const box = make("div", "strip"), image = make("img");
    image.src = one.src;
    image.alt = `${one.frames} pictures of ${one.key} at even times`;
    const mark = make("span", "mark");
    box.append(image, mark);
    movers.push(() => {
      mark.style.left = `${100 * nearest(one.time, now) / one.frames}%`;
      mark.style.width = `${100 / one.frames}%`;
    });
    return box;
  };

  const curve = (name, values, times) => {
    const box = make("div", "curve"), head = make("div", "head"), reading = make("span", "reading");
    head.append(make("span", "name", name), reading);
    const known = values.filter(value => value !== null);
    const low = Math.min(...known), high = Math.max(...known);
    const svg = draw("svg", { viewBox: "0 0 100 44", preserveAspectRatio: "none", role: "img", "aria-label": name });
    const x = time => 100 * (time - begin) / (end - begin);
    const y = value => high > low ? 41 - 38 * (value - low) / (high - low) : 22;
    for (const line of [3, 22, 41]) svg.append(draw("line", { class: "grid", x1: 0, x2: 100, y1: line, y2: line }));
    let points = [];
    const flush = () => {
      if (points.length === 1) points.push(points[0]);
      if (points.length) svg.append(draw("polyline", { class: "line", points: points.join(" ") }));
      points = [];
    };
    values.forEach((value, i) => value === null ? flush() : points.push(`${x(times[i]).toFixed(2)},${y(value).toFixed(2)}`));
    flush();
    const cursor = draw("line", { class: "cursor", y1: 0, y2: 44 });
    svg.append(cursor);
    const scale = make("div", "ends");
    scale.append(make("span", "", known.length ? number(high) : ""), make("span", "", known.length && high > low ? number(low) : ""));
    const plot = make("div", "plot");
    plot.append(svg, scale);
    plot.addEventListener("pointermove", event => {
      const inside = svg.getBoundingClientRect();
      if (event.buttons || event.pointerType === "mouse") move(begin + (end - begin) * (event.clientX - inside.left) / inside.width, true);
    });
    box.append(head, plot);
    movers.push(() => {
      cursor.setAttribute("x1", x(now)); cursor.setAttribute("x2", x(now));
      reading.textContent = number(values[nearest(times, now)]);
    });
    return box;
  };

  const move = (time, stop) => {
    if (stop) pause();
    now = Math.min(Math.max(time, begin), end);
    slider.value = 1000 * (now - begin) / (end - begin);
    part("clock").textContent = `${(now - begin).toFixed(2)} s of ${(end - begin).toFixed(2)} s`;
    for (const mover of movers) mover();
  };
  const pause = () => { playing = false; button.textContent = "Play"; };
  const tick = stamp => {
    if (!playing || !dialog.open) return;
    const time = now + (stamp - last) / 1000 * Math.max(1, (end - begin) / 12);
    last = stamp;
    move(time >= end ? begin : time, false);
    requestAnimationFrame(tick);
  };
  button.addEventListener("click", () => {
    if (playing) return pause();
    playing = true; button.textContent = "Pause"; last = performance.now();
    requestAnimationFrame(tick);
  });
  slider.addEventListener("input", () => move(begin + (end - begin) * slider.value / 1000, true));

  const show = index => {
    const detail = details[index];
    if (!detail) return false;
    pause();
    open = index; movers = [];
    part("title").textContent = `Episode ${index}`;
    part("task").textContent = detail.task || "(no task)";
    part("facts").textContent = [
      detail.success === null ? "success not said" : detail.success ? "success" : "failure",
      `${detail.steps} steps`, detail.about].filter(Boolean).join(" · ");
    const problems = part("problems");
    problems.replaceChildren(...detail.problems.map(text => make("li", "", text)));
    problems.hidden = !detail.problems.length;
    const times = [...detail.films, ...detail.curves].flatMap(one => [one.time[0], one.time[one.time.length - 1]]).filter(time => time !== null);
    begin = times.length ? Math.min(...times) : 0;
    end = times.length ? Math.max(...times) : 1;
    if (!(end > begin)) end = begin + 1;
    part("films").replaceChildren(...detail.films.map(film));
    part("strips").replaceChildren(...detail.films.map(strip));
    part("curves").replaceChildren(...detail.curves.flatMap(group => {
      const title = make("h3", "", group.key);
      if (group.entries > group.names.length) title.append(make("small", "", ` the first ${group.names.length} of ${group.entries} entries`));
      const grid = make("div", "grid3");
      grid.append(...group.names.map((name, i) => curve(name, group.values[i], group.time)));
      return [title, grid];
    }));
    const visible = rows.filter(row => !row.hidden && details[row.dataset.index]).map(row => row.dataset.index);
    const at = visible.indexOf(String(index));
    part("before").disabled = at <= 0;
    part("after").disabled = at < 0 || at === visible.length - 1;
    part("before").onclick = () => go(visible[at - 1]);
    part("after").onclick = () => go(visible[at + 1]);
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    move(begin + 0.5 * (end - begin), false);
    return true;
  };
  const go = index => { history.replaceState(null, "", `#episode-${index}`); show(index); };
  const route = () => {
    const match = /^#episode-(\d+)$/.exec(location.hash);
    if (match) show(match[1]);
  };
  for (const row of rows)
    if (details[row.dataset.index]) row.addEventListener("click", event => { if (!event.target.closest("a")) go(row.dataset.index); });
  part("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => { pause(); open = null; history.replaceState(null, "", location.pathname); });
  dialog.addEventListener("keydown", event => {
    if (event.target === slider) return;
    if (event.key === "ArrowLeft" && !part("before").disabled) part("before").click();
    if (event.key === "ArrowRight" && !part("after").disabled) part("after").click();
  });
  addEventListener("hashchange", route);
  route();
})();
