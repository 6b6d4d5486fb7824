-- Every object has a COMMENT; everything is schema-qualified (the schema is fixed: synod).
-- Sections are owned by the module named in their heading.
\echo Use "CREATE EXTENSION synod" to load this file. \quit
