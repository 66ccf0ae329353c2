// Swagger UI on this service's own document, in the colours that the visitor's system asks for.
const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  defaultModelExpandDepth: 2,
  displayRequestDuration: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  responseInterceptor(response) {
    // The console can be switched off; then the document does not name it.
    if (response.url.endsWith("openapi.json") && response.obj?.paths?.["/console"]) {
      document.getElementById("console-link").hidden = false;
    }
    return response;
  },
});
