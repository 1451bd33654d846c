import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const local = (path) => fileURLToPath(new URL(path, import.meta.url));

test("types.ts, which uses the whole API, compiles", () => {
  const program = ts.createProgram([local("types.ts")], {
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
    lib: ["lib.es2022.d.ts", "lib.dom.d.ts"],
    types: [],
    strict: true,
    noEmit: true,
    exactOptionalPropertyTypes: true,
  });
  const diagnostics = ts.getPreEmitDiagnostics(program).map(({ messageText, file, start }) => {
    const line = file && file.getLineAndCharacterOfPosition(start).line + 1;
    return `${file?.fileName}:${line} ${ts.flattenDiagnosticMessageText(messageText, "\n")}`;
  });
  assert.deepEqual(diagnostics, []);
});
