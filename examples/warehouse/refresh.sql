-- Brings the report up to date with the view; run it as often as you like.
-- Everything that it reads is one snapshot, so the report is always the revenue
-- as of one moment, and only rows that differ are written.
BEGIN ISOLATION LEVEL REPEATABLE READ;

-- One refresh at a time: two would both insert the same new rows.
SELECT pg_advisory_xact_lock(hashtext('report')) \g /dev/null

WITH fresh AS MATERIALIZED (
	SELECT (lower(day) AT TIME ZONE 'UTC')::date AS day, product, orders, revenue
	FROM daily_revenue
), gone AS (
	DELETE FROM report r
	WHERE NOT EXISTS (SELECT FROM fresh f WHERE (f.day, f.product) = (r.day, r.product))
	RETURNING r.day
), merged AS (
	INSERT INTO report AS r (day, product, orders, revenue)
	SELECT day, product, orders, revenue FROM fresh
	ON CONFLICT (day, product) DO UPDATE
		SET orders = excluded.orders, revenue = excluded.revenue, changed_at = now()
		WHERE (r.orders, r.revenue) IS DISTINCT FROM (excluded.orders, excluded.revenue)
	RETURNING r.day
)
SELECT (SELECT count(*) FROM merged) AS rows_written, (SELECT count(*) FROM gone) AS rows_deleted;

COMMIT;
