//! The PostgreSQL extension `synod`.
pgrx::pg_module_magic!();
