"use strict";
// A button that was clicked keeps the focus, and the mouse is still over it: nobody is busy with it.
const isBusy = () =>
  document.hidden ||
  document.querySelector(".plays, :is(video, a, summary):is(:hover, :focus), details[open]") !== null ||
  !getSelection().isCollapsed;

const chipWithFocus = () => document.querySelector(".chips :focus-visible")?.dataset.show;
if (typeof history.state === "string") {
  document.querySelector(`.chips [data-show="${history.state}"]`)?.focus();
}
setInterval(() => {
  if (isBusy()) return;
  history.replaceState(chipWithFocus() ?? null, "");
  location.reload();
}, 5000);

// Only a page that has just come anew can tell how old the file is.
const live = document.querySelector(".live");
const minutes = Math.floor((Date.now() - new Date(live.querySelector("time").dateTime)) / 60000);
if (minutes >= 2) { // it is written every 30 s at least
  const silence = minutes < 120 ? `${minutes} min` : minutes < 2880 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / 1440)} days`;
  live.classList.add("silent");
  live.textContent = `no news for ${silence}: if it was ended, run it again`;
}
