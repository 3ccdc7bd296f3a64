"use strict";
const isBusy = () =>
  document.hidden ||
  document.querySelector(".plays, :is(video, a, button, summary):is(:hover, :focus), details[open]") !== null ||
  !getSelection().isCollapsed;

const live = document.querySelector(".live");
const written = new Date(live.querySelector("time").dateTime);
const doubt = () => {
  const minutes = Math.floor((Date.now() - written) / 60000);
  if (minutes < 2) return; // it is written every 30 s at least
  const silence = minutes < 120 ? `${minutes} min` : minutes < 2880 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / 1440)} days`;
  live.classList.add("silent");
  live.textContent = `no news for ${silence}: if it was ended, run it again`;
};

setInterval(() => {
  if (isBusy()) doubt();
  else location.reload();
}, 5000);
doubt();
