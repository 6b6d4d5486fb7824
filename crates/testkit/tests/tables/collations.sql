-- A key whose equal values have different bytes.
--- tables: collated
CREATE COLLATION ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE collated (name text COLLATE ignore_case PRIMARY KEY, v int);

--- run

INSERT INTO collated VALUES ('Straße', 1), ('äpfel', 2)

INSERT INTO collated VALUES ('ÄPFEL', 3)

INSERT INTO collated VALUES ('ÄPFEL', 3) ON CONFLICT (name) DO UPDATE SET v = 4, name = excluded.name

UPDATE collated SET name = 'STRASSE' WHERE name = 'straße'

DELETE FROM collated WHERE name = 'äPFEL'

TABLE collated ORDER BY v
