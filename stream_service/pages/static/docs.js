// A quick start to copy, and Swagger UI on this service's own description.
// The quick start speaks of this service, wherever it is, and can be copied.
const here = new URL(".", location.href).href.replace(/\/$/, "");
for (const code of document.querySelectorAll("code.curl")) {
  code.textContent = code.textContent.replaceAll("http://127.0.0.1:3001", here);
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Copy" });
  button.setAttribute("aria-label", `Copy: ${code.closest("li").querySelector("h3").textContent}`);
  button.addEventListener("click", () => copy(code));
  code.closest("pre").before(button);
}

async function copy(code) {
  let said = "Copied.";
  try {
    await navigator.clipboard.writeText(`${code.textContent}\n`);
  } catch {
    // Without TLS a browser lets no page write there.
    getSelection().selectAllChildren(code);
    said = "Selected: copy it with Ctrl-C.";
  }
  document.getElementById("copied").textContent = said;
}

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  // Its links begin with "#/"; it would turn any other one, to a problem say, into one of them.
  deepLinking: location.hash === "" || location.hash.startsWith("#/"),
  docExpansion: "list",
  defaultModelsExpandDepth: -1,
  defaultModelExpandDepth: 2,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  syntaxHighlight: false,
  validatorUrl: null,
});

// Swagger UI leaves some of its fields without a name, and what scrolls out of the keyboard's reach.
const NAMES = { "select.examples-select-element": "Example", "textarea.body-param__text": "Body", "select.content-type": "Content type", ".copy-to-clipboard button": "Copy", ".close-modal": "Close" };

function name() {
  for (const [selector, label] of Object.entries(NAMES)) {
    for (const one of document.querySelectorAll(`#swagger-ui ${selector}:not([aria-label])`)) one.setAttribute("aria-label", label);
  }
  for (const one of document.querySelectorAll("#swagger-ui pre.microlight:not([tabindex])")) one.tabIndex = 0;
}

new MutationObserver(name).observe(document.getElementById("swagger-ui"), { childList: true, subtree: true });
