-- What is wrong, if anything: PostgreSQL's own computation over the table, with
-- none of our functions.
CREATE TEMP TABLE truth AS
SELECT customer,
	tstzrange(start AT TIME ZONE 'Europe/Berlin', (start + interval '1 month') AT TIME ZONE 'Europe/Berlin') AS month,
	sum(kwh) AS kwh, round(sum(kwh) * 0.31, 2) AS amount
FROM usage, date_trunc('month', used_at AT TIME ZONE 'Europe/Berlin') AS start
GROUP BY customer, start;

-- Months that are over are billed, and no other.
CREATE TEMP VIEW over AS SELECT * FROM truth WHERE month << tstzrange('2025-11-01 00:00+01', NULL);
(TABLE over EXCEPT ALL TABLE monthly_usage) UNION ALL (TABLE monthly_usage EXCEPT ALL TABLE over);
SELECT 'ten months should be over' WHERE (SELECT count(DISTINCT month) FROM over) <> 10;
SELECT 'November is not over' WHERE weir.is_closed('monthly_usage', tstzrange('2025-11-01 00:00+01', '2025-12-01 00:00+01'));

-- The documents, added up, are what each customer owes.
SELECT customer, month, sum(amount) FROM (
	SELECT customer, month, amount FROM documents
	UNION ALL
	SELECT customer, to_char(lower(month) AT TIME ZONE 'Europe/Berlin', 'YYYY-MM'), -amount FROM over
) AS both_sides GROUP BY customer, month HAVING sum(amount) <> 0;

-- One correction of each kind, and every document has its own number.
SELECT 'there should be 5 credit notes', count(*) FROM documents WHERE document = 'credit note' HAVING count(*) <> 5;

-- March has 743 hours, October 745.
SELECT month FROM monthly_usage
WHERE lower(month) = '2025-03-01 00:00+01' AND upper(month) - lower(month) <> interval '743 hours'
	OR lower(month) = '2025-10-01 00:00+02' AND upper(month) - lower(month) <> interval '745 hours';
