-- INSERT, UPDATE, DELETE in the forms that applications write.
--- tables: item, stock, journal
--- also: local_names
CREATE TABLE item (id int PRIMARY KEY, name text UNIQUE, price numeric(10, 2), tags text[]);
CREATE TABLE stock (item int PRIMARY KEY REFERENCES item ON DELETE CASCADE, amount int NOT NULL CHECK (amount >= 0));
CREATE TABLE journal (at int, what text);
CREATE TABLE local_names (name text, label text);
INSERT INTO local_names VALUES ('nut', 'Nut'), ('bolt', 'Bolt');
CREATE VIEW cheap AS SELECT id, name, price FROM item WHERE price < 10 WITH CHECK OPTION;
CREATE VIEW labelled AS SELECT i.id, l.label, s.amount FROM item i JOIN local_names l USING (name) LEFT JOIN stock s ON s.item = i.id;

--- run

INSERT INTO item VALUES (1, 'nut', 0.10, '{small}'), (2, 'bolt', 0.25, NULL), (3, 'lathe', 9000, '{big,loud}') RETURNING id, name

INSERT INTO stock SELECT id, id * 10 FROM item RETURNING *

INSERT INTO item VALUES (1, 'nut', 0, NULL)

INSERT INTO item VALUES (1, 'other', 0, NULL) ON CONFLICT DO NOTHING RETURNING id

INSERT INTO item VALUES (9, 'nut', 0, NULL) ON CONFLICT (name) DO NOTHING

INSERT INTO item VALUES (1, 'nut', 0.11, NULL), (4, 'gear', 3, NULL)
    ON CONFLICT (id) DO UPDATE SET price = excluded.price, name = item.name || '!' WHERE item.price <> excluded.price
    RETURNING id, name, price

INSERT INTO item (id, name) VALUES (5, 'gear') ON CONFLICT ON CONSTRAINT item_name_key DO UPDATE SET tags = '{twice}' RETURNING *

INSERT INTO item VALUES (7, 'a', 1, NULL), (7, 'b', 1, NULL) ON CONFLICT (id) DO UPDATE SET name = excluded.name

UPDATE stock s SET amount = s.amount + i.id FROM item i WHERE i.id = s.item AND i.price < 1000 RETURNING s.item, s.amount, i.name

UPDATE item SET (name, price) = (SELECT upper(name), price * 2 FROM item b WHERE b.id = item.id) WHERE id IN (SELECT item FROM stock WHERE amount > 11) RETURNING *

DELETE FROM stock USING item WHERE item.id = stock.item AND item.name = 'LATHE' RETURNING stock.*

WITH moved AS (DELETE FROM stock WHERE item = 2 RETURNING *), noted AS (INSERT INTO journal SELECT item, 'moved' FROM moved RETURNING at)
INSERT INTO stock SELECT item, amount + 1 FROM moved WHERE item IN (SELECT item FROM moved) ON CONFLICT DO NOTHING RETURNING *

WITH RECURSIVE n (i) AS (SELECT 10 UNION ALL SELECT i + 1 FROM n WHERE i < 20), new AS (INSERT INTO item SELECT i, 'n' || i, i FROM n RETURNING id, price)
UPDATE journal SET what = (SELECT sum(price)::text FROM new) RETURNING *

SELECT id, name, price FROM cheap ORDER BY id

UPDATE cheap SET price = price + 0.01 WHERE id = 4 RETURNING *

UPDATE cheap SET price = 100 WHERE id = 4

INSERT INTO cheap VALUES (30, 'washer', 0.02) RETURNING *

DELETE FROM cheap WHERE id = 30

SELECT * FROM labelled ORDER BY id

SELECT l.label, i.price FROM local_names l LEFT JOIN item i ON lower(i.name) = l.name ORDER BY 1

UPDATE stock SET amount = amount - 1000 WHERE item = 1

DELETE FROM item WHERE id = 2 RETURNING id

SELECT item, amount FROM stock ORDER BY item

MERGE INTO item t USING (VALUES (1, 'x', 1.5), (40, 'new', 2.5), (10, NULL, NULL)) s (id, name, price) ON t.id = s.id
    WHEN MATCHED AND s.name IS NULL THEN DELETE
    WHEN MATCHED THEN UPDATE SET name = s.name, price = s.price
    WHEN NOT MATCHED THEN INSERT (id, name, price) VALUES (s.id, s.name, s.price)

--- since 17
MERGE INTO item t USING (VALUES (41, 'newer', 1.5), (40, 'renewed', 2.5)) s (id, name, price) ON t.id = s.id
    WHEN MATCHED THEN UPDATE SET name = s.name WHEN NOT MATCHED THEN INSERT (id, name, price) VALUES (s.id, s.name, s.price)
    RETURNING merge_action(), t.id, t.name

SELECT id, name, price, tags FROM item ORDER BY id

SELECT count(*), sum(price), array_agg(DISTINCT price::int ORDER BY price::int) FROM item

UPDATE item SET id = id + 1 WHERE id >= 11

UPDATE item SET id = -id WHERE id >= 11

DELETE FROM journal; INSERT INTO journal VALUES (1, 'one'), (1, 'one'); UPDATE journal SET what = 'both'; DELETE FROM journal WHERE ctid IN (SELECT min(ctid) FROM journal)

INSERT INTO journal DEFAULT VALUES RETURNING *

TABLE journal ORDER BY at
