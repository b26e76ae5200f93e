// As served, the page asks for itself again. What was opened stays open, and a server that is away is said.
const opened = () => new Set([...document.querySelectorAll("details[open]")].map((part) => part.id));
async function refresh() {
  const said = document.getElementById("said");
  try {
    const answer = await fetch(location.pathname, { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const open = opened();
    const focused = document.activeElement && document.activeElement.id;
    page.querySelectorAll("details").forEach((part) => part.toggleAttribute("open", open.has(part.id)));
    document.title = page.title;
    for (const part of ["header", "main"]) {
      const before = document.querySelector(part), after = page.querySelector(part);
      if (before.innerHTML !== after.innerHTML) before.innerHTML = after.innerHTML;
    }
    if (focused && document.getElementById(focused)) document.getElementById(focused).focus();
    said.textContent = page.getElementById("said").textContent;
  } catch {
    said.textContent = "The server does not answer: these figures may be old.";
  }
}
setInterval(refresh, 1000 * SECONDS);
document.addEventListener("click", async (event) => {
  const name = event.target.dataset && event.target.dataset.stop;
  if (!name || !confirm(`Stop ${name}? All users get the incumbent.`)) return;
  const said = document.getElementById("said");
  try {
    const options = { method: "POST", headers: { "mtorl-page": "stop" } };
    said.textContent = await (await fetch(`stop/${encodeURIComponent(name)}`, options)).text();
  } catch {
    said.textContent = "The server does not answer: use kubectl, as the runbooks say.";
  }
});
