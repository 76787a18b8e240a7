\pset footer off
SELECT place, item, views, lower(win)::time AS from, upper(win)::time AS to
FROM trending WHERE place <= 3 ORDER BY place;
INSERT INTO shown SELECT * FROM trending;
