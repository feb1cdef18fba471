/** The layout of `<chat-app>`: bar, sidebar, one column that scrolls between header and composer. */
import { css } from "lit";

export const appStyles = css`
  :host {
    display: flex;
    flex-direction: column;
    height: 100dvh;
    overflow: hidden;
  }
  .skip {
    position: absolute;
    inset: -4rem auto auto 1rem;
    z-index: 5;
    padding: 0.5rem 1rem;
    background: var(--surface);
    border-radius: var(--round);
  }
  .skip:focus {
    top: 0.5rem;
  }
  .bar {
    flex: none;
    display: flex;
    align-items: center;
    justify-content: center;
    gap: var(--gap-s);
    padding: 0.3rem 1rem;
    font-size: var(--small);
    font-weight: 660;
    text-align: center;
  }
  .frame {
    flex: 1;
    min-height: 0;
    display: grid;
    grid-template: minmax(0, 1fr) / minmax(0, 1fr);
  }
  .frame.with-sidebar {
    grid-template-columns: 17rem minmax(0, 1fr);
  }
  .sidebar {
    min-height: 0;
    padding: 0.625rem;
    background: var(--surface);
    border-inline-end: 1px solid var(--line);
  }
  .column {
    display: grid;
    grid-template-rows: auto minmax(0, 1fr) auto;
    min-height: 0;
    min-width: 0;
  }
  header {
    display: flex;
    align-items: center;
    gap: var(--gap-s);
    min-height: var(--header);
    padding: 0 0.625rem;
    min-width: 0;
  }
  .model {
    field-sizing: content;
    width: auto;
    max-width: 100%;
    border-color: transparent;
    background-color: transparent;
    font-weight: 560;
    padding-inline: 0.375rem;
    text-overflow: ellipsis;
    cursor: pointer;
  }
  .model:hover {
    background-color: var(--sunken);
  }
  .model option {
    background: var(--surface);
    color: var(--text);
  }
  main {
    overflow-y: auto;
    overscroll-behavior: contain;
    display: flex;
    flex-direction: column;
    padding-inline: var(--gap);
    scrollbar-gutter: stable;
  }
  main:focus-visible {
    outline-offset: -2px;
  }
  .messages {
    width: 100%;
    max-width: 46rem;
    margin: 0 auto;
    padding: var(--gap) 0 var(--gap-l);
    display: grid;
    grid-template-columns: minmax(0, 1fr);
    gap: var(--gap-l);
  }
  footer {
    position: relative;
    display: grid;
    grid-template-columns: minmax(0, 1fr);
    gap: var(--gap-s);
    width: 100%;
    max-width: 48rem;
    margin: 0 auto;
    padding: var(--gap-s) var(--gap) max(var(--gap), env(safe-area-inset-bottom));
  }
  .notices {
    max-height: 45dvh;
    overflow-y: auto;
  }
  .notices:empty {
    display: none;
  }
  .words {
    flex: 1 1 14rem;
  }
  .to-end {
    position: absolute;
    inset: -3rem auto auto calc(50% - 1.25rem);
    border-radius: 99px;
    box-shadow: var(--lift);
  }
  .drop {
    position: fixed;
    inset: 0.75rem;
    z-index: 4;
    display: grid;
    place-items: center;
    border: 2px dashed var(--accent);
    border-radius: var(--round-l);
    background: color-mix(in srgb, var(--ground) 88%, transparent);
    font-weight: 600;
    pointer-events: none;
  }
  @media (max-width: 480px) {
    main {
      padding-inline: 0.875rem;
      scrollbar-gutter: auto;
    }
    footer {
      padding: var(--gap-s) 0.625rem max(0.625rem, env(safe-area-inset-bottom));
    }
    header {
      padding-inline: 0.25rem;
      gap: 0.125rem;
    }
  }
`;
