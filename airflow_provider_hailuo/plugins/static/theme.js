// Light and dark: those of Airflow, with its own colours, and live; alone, what Airflow has kept or the system wants.

const root = document.documentElement;
const COLOURS = {
  "--bg": "bg", "--fg": "fg", "--muted": "fg-muted", "--line": "border", "--panel": "bg-panel", "--subtle": "bg-subtle",
};
const airflow = window.parent === window ? null : window.parent.document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  if (airflow) return airflow.classList.contains("dark");
  const kept = localStorage.getItem("theme");
  return kept === "dark" || (kept !== "light" && system.matches);
}

function apply() {
  root.dataset.theme = isDark() ? "dark" : "light";
  if (!airflow) return;
  const theirs = window.parent.getComputedStyle(airflow);
  for (const [ours, name] of Object.entries(COLOURS)) {
    const colour = theirs.getPropertyValue(`--chakra-colors-${name}`).trim();
    if (colour) root.style.setProperty(ours, colour);
  }
}

apply();
if (airflow) new MutationObserver(apply).observe(airflow, { attributes: true, attributeFilter: ["class", "style"] });
system.addEventListener("change", apply);
addEventListener("storage", apply);
