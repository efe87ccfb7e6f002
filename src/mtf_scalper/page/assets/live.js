
// The live page: what has changed is asked for and put in place of the old, plots stay where they
// are and keep their zoom, and so do the focus, open details, sorted tables and choices.
const EVERY_MS = 2000;
const known = {};

function kept(element) {
  const focus = element.contains(document.activeElement) ? path(document.activeElement, element) : null;
  const open = [...element.querySelectorAll("details")].map((each) => [each.id, each.open]);
  const choices = [...element.querySelectorAll("select")].map((each) => [each.id, each.value]);
  const sorted = [...element.querySelectorAll("th[aria-sort]")].map((each) => [
    each.closest("table").id, [...each.parentElement.children].indexOf(each), each.getAttribute("aria-sort"),
  ]);
  const scrolled = [...element.querySelectorAll(".scroll")].map((each) => each.scrollLeft);
  return { focus, open, choices, sorted, scrolled };
}

function path(element, root) {
  const steps = [];
  for (let each = element; each !== root; each = each.parentElement) steps.unshift([...each.parentElement.children].indexOf(each));
  return steps;
}

function restored(element, state) {
  for (const [id, open] of state.open) if (document.getElementById(id)) document.getElementById(id).open = open;
  for (const [id, value] of state.choices) {
    const select = document.getElementById(id);
    if (select && [...select.options].some((option) => option.value === value)) select.value = value;
  }
  for (const [id, column, direction] of state.sorted) {
    const heading = document.querySelector(`#${id} thead tr`);
    if (heading && heading.children[column]) sortTable(heading.children[column], direction);
  }
  element.querySelectorAll(".scroll").forEach((each, place) => { each.scrollLeft = state.scrolled[place] || 0; });
  let focused = element;
  for (const step of state.focus || []) focused = focused && focused.children[step];
  if (state.focus && focused) focused.focus({ preventScroll: true });
}

function replaceSection(name, html) {
  const old = document.getElementById(name);
  const state = kept(old);
  const holder = document.createElement("template");
  holder.innerHTML = html;
  const fresh = holder.content.firstElementChild;
  for (const plot of fresh.querySelectorAll(".plot")) {
    const drawn = document.getElementById(plot.id);
    if (drawn) plot.replaceWith(drawn);
  }
  old.replaceWith(fresh);
  restored(fresh, state);
}

async function ask() {
  const answer = await fetch(`/news?${new URLSearchParams(known)}`);
  if (!answer.ok) throw new Error((await answer.text()).trim());
  const news = await answer.json();
  if (known.run && known.run !== news.run) {
    location.reload();
    return;
  }
  for (const [name, html] of Object.entries(news.html)) {
    if (name === "head") document.getElementById("head").innerHTML = html;
    else replaceSection(name, html);
  }
  Object.assign(page.figures, news.plots);
  for (const name of Object.keys(news.plots)) await draw(name);
  Object.assign(known, news.digests, { run: news.run });
  const now = new Date().toLocaleTimeString();
  document.getElementById("live-state").textContent =
    news.status === "running" ? "Live: asks for news every two seconds." : `The run is ${news.status}; asked at ${now}.`;
  document.documentElement.dataset.asked = String(Number(document.documentElement.dataset.asked || 0) + 1);
}

async function watch() {
  await started;
  for (;;) {
    // A page that nobody looks at asks for nothing.
    if (!document.hidden) {
      try {
        await ask();
      } catch (error) {
        document.getElementById("live-state").textContent = `No news: ${error.message}. This is the last that was heard.`;
      }
    }
    await new Promise((resume) => setTimeout(resume, EVERY_MS));
  }
}

watch();
