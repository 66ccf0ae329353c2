/** stream-client.tv.js in a context that has no more than Chrome 53, and less than some televisions. */
import { readFileSync } from "node:fs";
import vm from "node:vm";

const FILE = new URL("../stream-client.tv.js", import.meta.url);
// What the page has, as the world of the test has it at that moment: no AbortController, no
// sendBeacon, no streams, no localStorage, and sessionStorage only in the cases that are about it.
const OF_THE_PAGE = [
  ..."setTimeout clearTimeout fetch addEventListener removeEventListener document navigator".split(" "),
  ..."performance crypto Headers TextDecoder sessionStorage".split(" "),
];
const LATER = `
  delete self.globalThis;
  for (const name of ["entries", "values", "fromEntries", "getOwnPropertyDescriptors", "hasOwn"])
    delete Object[name];
  for (const name of ["flat", "flatMap", "at", "findLast", "toSorted", "toReversed", "with"])
    delete Array.prototype[name];
  for (const name of ["padStart", "padEnd", "matchAll", "replaceAll", "trimStart", "trimEnd", "at"])
    delete String.prototype[name];
  for (const name of ["allSettled", "any", "withResolvers"]) delete Promise[name];
  delete Promise.prototype.finally;
  for (const name of ["BigInt", "WeakRef", "FinalizationRegistry", "AggregateError", "queueMicrotask"])
    delete self[name];
  delete Symbol.asyncIterator;
  delete Symbol.prototype.description;
  Date.now = () => outer.Date.now();
  Math.random = () => outer.Math.random();
`;

export const old_engine = () => {
  const self = vm.createContext({ outer: globalThis });
  for (const name of OF_THE_PAGE)
    Object.defineProperty(self, name, { get: () => globalThis[name], configurable: true });
  self.self = self;
  vm.runInContext(LATER, self);
  vm.runInContext(readFileSync(FILE, "utf8"), self, { filename: "stream-client.tv.js" });
  return vm.runInContext("StreamService", self);
};
