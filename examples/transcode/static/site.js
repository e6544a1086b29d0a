// Without this script the site works too: the upload shows no bar, and cards change when the page is loaded again.

// A job of a card has ended: show the card as it is now.
const waiting = new Map();
document.addEventListener("job-end", (event) => {
  const id = event.target.closest("[data-film]")?.dataset.film;
  if (!id || waiting.has(id)) return;
  waiting.set(id, setTimeout(() => { waiting.delete(id); show(id); }, 300));
});

async function show(id) {
  const answer = await fetch(`/films/${id}/card`);
  const card = document.querySelector(`[data-film="${CSS.escape(id)}"]`);
  if (!card || !answer.ok) return;
  const parsed = new DOMParser().parseFromString(await answer.text(), "text/html");
  const playing = card.querySelector("video");
  if (playing && !playing.paused) return;
  card.replaceWith(parsed.querySelector("[data-film]"));
}

// An upload shows how far it is.
const form = document.getElementById("upload");
const bar = form.querySelector("progress");
const input = form.querySelector("input[type=file]");
const drop = form.querySelector(".drop");

input.addEventListener("change", () => {
  drop.querySelector(".choose").textContent = input.files[0]?.name ?? "Choose a film, or drop one here";
});
for (const [name, over] of [["dragenter", true], ["dragleave", false], ["drop", false]]) {
  drop.addEventListener(name, () => drop.classList.toggle("over", over));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const request = new XMLHttpRequest();
  const button = form.querySelector("button");
  button.disabled = true;
  bar.hidden = false;
  request.upload.addEventListener("progress", (now) => { if (now.lengthComputable) bar.value = now.loaded / now.total; });
  request.addEventListener("load", () => {
    if (request.status < 400) return location.assign("/");
    const page = new DOMParser().parseFromString(request.responseText, "text/html");
    complain(page.querySelector(".refused")?.textContent ?? `Not taken: the server answers ${request.status}.`);
  });
  request.addEventListener("error", () => complain("Not taken: the connection is lost."));
  request.open("POST", form.action);
  request.send(new FormData(form));

  function complain(text) {
    button.disabled = false;
    bar.hidden = true;
    let place = document.querySelector("p.refused");
    if (!place) {
      place = document.createElement("p");
      place.className = "refused";
      place.setAttribute("role", "alert");
      document.querySelector("main").prepend(place);
    }
    place.textContent = text;
  }
});
