"use strict";
const isBusy = () =>
  document.hidden ||
  document.querySelector(".plays, :is(video, a, button, summary):is(:hover, :focus), details[open]") !== null ||
  !getSelection().isCollapsed;
setInterval(() => {
  if (!isBusy()) location.reload();
}, 5000);
