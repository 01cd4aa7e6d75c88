// The colour scheme: the system's, until the button chooses one; the choice is kept where the browser lets it.
(() => {
  const root = document.documentElement;
  const kept = () => { try { return localStorage.getItem("madzoo-scheme"); } catch { return null; } };
  const keep = (scheme) => { try { localStorage.setItem("madzoo-scheme", scheme); } catch { /* kept for this page only */ } };
  const current = () =>
    root.dataset.scheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  if (["dark", "light"].includes(kept())) root.dataset.scheme = kept();
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("scheme");
    const say = () => { button.textContent = current() === "dark" ? "Light colours" : "Dark colours"; };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.scheme = current() === "dark" ? "light" : "dark";
      keep(root.dataset.scheme);
      say();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", say);
    say();
  });
})();
