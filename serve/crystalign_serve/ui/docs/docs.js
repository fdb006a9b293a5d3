// The description of the API, drawn by Swagger UI 5.35.0 (Apache-2.0), all of it served from here.

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger",
  deepLinking: true,
  presets: [SwaggerUIBundle.presets.apis],
  validatorUrl: null,
});
