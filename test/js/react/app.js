// A React application that the test renders on the server and runs in a browser.

import { createElement as h, startTransition, Suspense, use, useState } from "react";
import { HubProvider, useChannel, useConnectionState, useHub, useMembers, useRoom } from "hypgo-websocket/react";

export function App({ url, controls }) {
  const [path, setPath] = useState(url);
  const client = useHub(path, { backoff: { base: 10 }, onMessage: () => {} });
  const [late, setLate] = useState(false);
  Object.assign(controls, { client, setPath, showLate: () => startTransition(() => setLate(true)) });
  return h(
    HubProvider,
    { client },
    h(Connection),
    h(Panels, { controls }),
    h(Members, { controls }),
    late && h(Suspense, { fallback: h("p", { id: "late" }, "waiting") }, h(Late, { url, controls })),
  );
}

function Connection() {
  return h("p", { id: "connection" }, useConnectionState(useHub()));
}

function Panels({ controls }) {
  const [panels, setPanels] = useState({ first: "news", second: "news" });
  controls.setPanels = setPanels;
  return Object.entries(panels).map(([id, channel]) => h(Panel, { key: id, id, channel, controls }));
}

/** Shows the messages of a channel, and with each the label at the time when it arrived. */
function Panel({ id, channel, controls }) {
  const client = useHub();
  const [label, setLabel] = useState("a");
  const [lines, setLines] = useState([]);
  controls[id] = setLabel;
  const { state, error } = useChannel(client, channel, (message) => setLines((all) => [...all, label + message.json()]), {
    last: 2,
  });
  const room = useRoom(client, "lobby");
  return h("p", { id }, [channel, state, error?.code ?? "fine", `room ${room.state}`, ...lines].join(" "));
}

/** Shows whether this client is among the members, and their number. */
function Members({ controls }) {
  const [room, setRoom] = useState("p:hall");
  controls.setRoom = setRoom;
  const client = useHub();
  const members = useMembers(client, "room", room);
  return h("p", { id: "members" }, `${room} ${members.some(({ clientId }) => clientId === client?.id)} ${members.length}`);
}

/** Its first renders are discarded, because it suspends. */
function Late({ url, controls }) {
  const client = useHub(`${url}?late`);
  const value = use(controls.late);
  return h("p", { id: "late" }, `${value} ${useConnectionState(client)}`);
}
