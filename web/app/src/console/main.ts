/** The console page. */
import { connect } from "./live.ts";
import { startConsole } from "./start.ts";

await startConsole(connect);
