"""Models as integer programs (docs/spec/proof-programs.md, "Models")."""
