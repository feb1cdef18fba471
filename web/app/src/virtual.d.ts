/** The script of `proof-worker.ts`, as a text; made by vite.config.ts. */
declare module "virtual:proof-worker" {
  const script: string;
  export default script;
}
