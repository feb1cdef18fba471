/** `badge.js`: gives other sites the element `<mitai-badge>`. See docs/badge.md. */

import { MitaiBadge } from "./badge/element.ts";

if (!customElements.get("mitai-badge")) customElements.define("mitai-badge", MitaiBadge);
