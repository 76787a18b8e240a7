-- A transaction of the shop, for pgbench: mostly new orders, but also what makes
-- totals hard: corrected, moved, cancelled and deleted ones.
\set what random(1, 100)
\set product random(1, 12)
\set quantity random(1, 9)
\set cents random(100, 20000)
\set hours random(0, 95)
SELECT coalesce(max(id), 1) AS last FROM orders \gset
\set which random(greatest(1, :last - 2000), :last)
\if :what <= 65
INSERT INTO orders (product, quantity, price, ordered_at)
VALUES ('product ' || :product, :quantity, :cents / 100.0, now() - :hours * interval '1 hour');
\elif :what <= 75
UPDATE orders SET quantity = :quantity WHERE id = :which;
\elif :what <= 80
UPDATE orders SET product = 'product ' || :product WHERE id = :which;
\elif :what <= 85
UPDATE orders SET ordered_at = ordered_at - interval '1 day' WHERE id = :which;
\elif :what <= 92
UPDATE orders SET status = 'cancelled' WHERE id = :which;
\elif :what <= 99
DELETE FROM orders WHERE id = :which;
\else
-- many at once, and then all of it undone
BEGIN;
UPDATE orders SET price = price * 2 WHERE product = 'product ' || :product;
DELETE FROM orders WHERE product <> 'product ' || :product;
ROLLBACK;
\endif
