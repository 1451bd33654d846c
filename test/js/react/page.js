import { createElement as h, StrictMode } from "react";
import { hydrateRoot } from "react-dom/client";

import { App } from "./app.js";

const url = `ws://${location.host}/ws`;
const errors = [];
addEventListener("unhandledrejection", ({ reason }) => errors.push(String(reason)));
const controls = { errors };
controls.late = new Promise((resolve) => (controls.resolveLate = resolve));
const onRecoverableError = (error) => errors.push(String(error));
const app = h(StrictMode, null, h(App, { url, controls }));
const root = hydrateRoot(document.getElementById("root"), app, { onRecoverableError });
window.controls = Object.assign(controls, { url, unmount: () => root.unmount() });
