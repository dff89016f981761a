// What every Node client's program shares; its packages are found in the client's own environment.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

export const { CLIENT_ROUTER_URL: URL_, CLIENT_MODEL: MODEL, CLIENT_KEY: KEY } = process.env;

const WEATHER_FIELDS = { city: { type: "string" }, days: { type: "integer" } };
export const WEATHER = {
  type: "object",
  properties: WEATHER_FIELDS,
  required: ["city", "days"],
  additionalProperties: false,
};

// Do the step that the command line names and print what it returns; `steps` lists them.
export async function run(steps) {
  const [wanted] = process.argv.slice(2);
  const told = wanted === "steps" ? Object.keys(steps).sort() : await steps[wanted]();
  console.log(JSON.stringify(told));
  process.exit(0);
}

// Import a package from the client's environment (`CLIENT_HOME`).
export async function load(name) {
  const require = createRequire(pathToFileURL(`${process.env.CLIENT_HOME}/package.json`));
  try {
    return await import(import.meta.resolve(name, pathToFileURL(`${process.env.CLIENT_HOME}/package.json`)));
  } catch {
    return await import(pathToFileURL(require.resolve(name)));
  }
}
