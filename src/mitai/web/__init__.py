"""The page that people open in a browser: its files, how they are served, how anyone checks a host of them.

The sources are in `web/`; what is built from them lies in `page/` and is kept in the repository, so that no machine
needs Node.js to serve it. Formats: `docs/spec/web.md`.
"""
