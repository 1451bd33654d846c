import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import ts from "typescript";

import * as hub from "../hub.js";

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
    exactOptionalPropertyTypes: false,
  });
  const diagnostics = ts.getPreEmitDiagnostics(program).map(({ messageText, file, start }) => {
    const line = file && file.getLineAndCharacterOfPosition(start).line + 1;
    return `${file?.fileName}:${line} ${ts.flattenDiagnosticMessageText(messageText, "\n")}`;
  });
  assert.deepEqual(diagnostics, []);
});

test("the declarations list exactly the exports and their methods", () => {
  const source = ts.createSourceFile("hub.d.ts", readFileSync(local("../hub.d.ts"), "utf8"), ts.ScriptTarget.ES2022);
  const values = source.statements.filter(
    (node) => !ts.isInterfaceDeclaration(node) && !ts.isTypeAliasDeclaration(node),
  );
  const names = values.map((node) => node.name?.text ?? node.declarationList.declarations[0].name.text);
  assert.deepEqual(names.sort(), Object.keys(hub).sort());
  for (const node of values.filter(ts.isClassDeclaration)) {
    const declared = node.members.filter((member) => ts.isMethodDeclaration(member) || ts.isGetAccessor(member));
    const own = Object.getOwnPropertyNames(hub[node.name.text].prototype).filter((name) => name !== "constructor");
    const stateful = node.name.text === "HubClient" ? ["state"] : [];
    assert.deepEqual([...declared.map((member) => member.name.text), ...stateful].sort(), own.sort(), node.name.text);
  }
});
