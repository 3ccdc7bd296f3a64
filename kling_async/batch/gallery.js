"use strict";
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const play = (video) => {
  video.muted = true;
  video.play().catch(() => {}); // left before it had loaded
};

for (const video of document.querySelectorAll("video")) {
  const rest = () => {
    if (document.activeElement !== video) video.pause();
  };
  const toggle = () => (video.paused ? play(video) : video.pause());
  video.addEventListener("pointerenter", (event) => {
    if (event.pointerType === "mouse" && !calm.matches) play(video);
  });
  video.addEventListener("pointerleave", rest);
  video.addEventListener("focus", () => {
    if (video.matches(":focus-visible") && !calm.matches) play(video);
  });
  video.addEventListener("blur", () => video.pause());
  video.addEventListener("click", toggle);
  video.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    toggle();
  });
  const film = video.parentElement;
  for (const name of ["play", "pause"]) {
    video.addEventListener(name, () => film.classList.toggle("plays", !video.paused));
  }
}

// A browser has only so many players: what is far from view gives its own back.
const near = new IntersectionObserver(
  (seen) => {
    for (const { target, isIntersecting } of seen) {
      if (isIntersecting === (target.preload === "metadata") || !target.paused) continue;
      target.preload = isIntersecting ? "metadata" : "none";
      target.load();
    }
  },
  { rootMargin: "1000px" },
);
document.querySelectorAll("video").forEach((video) => near.observe(video));

const chips = document.querySelector(".chips");
const show = () => {
  const wanted = location.hash.slice(1);
  const known = [...chips.children].some((chip) => chip.dataset.show === wanted) ? wanted : "";
  for (const chip of chips.children) chip.setAttribute("aria-pressed", chip.dataset.show === known);
  for (const card of document.querySelectorAll(".card")) card.hidden = known !== "" && card.dataset.state !== known;
};
for (const chip of chips.children) {
  // in the address it outlives a reload
  chip.addEventListener("click", () => location.replace("#" + chip.dataset.show));
}
addEventListener("hashchange", show);
chips.hidden = chips.children.length < 3;
show();

for (const time of document.querySelectorAll("time")) {
  const moment = new Date(time.dateTime);
  const isToday = moment.toDateString() === new Date().toDateString();
  const when = time.className === "clock" ? { timeStyle: "medium" } : { dateStyle: "long", timeStyle: "short" };
  if (!isToday) when.dateStyle = "long";
  time.textContent = new Intl.DateTimeFormat("en-GB", when).format(moment);
}
