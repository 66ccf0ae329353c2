// Times as the visitor's clock has them, as in the console.
import { clockTime } from "./dom.js";

for (const time of document.querySelectorAll("time")) time.textContent = clockTime(time.dateTime);
